//! Connection service files (`pg_service.conf`): named groups of parameters.

use std::path::{Path, PathBuf};

use super::parse::is_blank;
use super::settings::{Origin, Settings};
use super::surroundings::Surroundings;
use crate::error::{Error, Result};

/// Where Debian's libpq looks if `PGSYSCONFDIR` is not set.
const SYSTEM_DIRECTORY: &str = "/etc/postgresql-common";

/// The parameters of service `name`, from the user's service file or else the system's.
/// `file` stands for the user's one and must then exist.
pub(super) fn load(name: &str, file: Option<&str>, machine: &dyn Surroundings) -> Result<Settings> {
    for path in candidates(file, machine) {
        let text = machine.read(&path).map_err(|e| {
            Error::usage(format!("the service file {} cannot be read: {e}", path.display()))
                .source(e)
        })?;
        if let Some(settings) = parse_group(&text, name, &path)? {
            return Ok(settings);
        }
    }
    Err(Error::usage(format!("the definition of service {name:?} was not found")).next(
        "Define it in ~/.pg_service.conf or in the file that PGSERVICEFILE names, or correct \
         connection parameter \"service\" (PGSERVICE in the environment)",
    ))
}

fn candidates(file: Option<&str>, machine: &dyn Surroundings) -> Vec<PathBuf> {
    let user = match file {
        Some(file) => Some(PathBuf::from(file)),
        None => machine
            .home()
            .map(|home| home.join(".pg_service.conf"))
            .filter(|path| machine.status(path).is_some()),
    };
    let directory = machine.env("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_DIRECTORY.to_owned());
    let system = Some(PathBuf::from(directory).join("pg_service.conf"))
        .filter(|path| machine.status(path).is_some());
    user.into_iter().chain(system).collect()
}

/// The first group called `name`; `None` if the file has none. Other groups stay unread, so that
/// their mistakes harm nobody.
fn parse_group(text: &str, name: &str, file: &Path) -> Result<Option<Settings>> {
    let lines = (1..).zip(text.lines().map(|line| line.trim_matches(is_blank)));
    let mut found: Option<Settings> = None;
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let header = line.strip_prefix('[');
        match (header, &mut found) {
            (Some(_), Some(_)) => break,
            (Some(header), none) => {
                let ours = header.strip_prefix(name).is_some_and(|rest| rest.starts_with(']'));
                *none = ours.then(Settings::default);
            }
            (None, Some(settings)) => {
                parse_line(line, name, settings).map_err(|e| {
                    e.context(format!("service file {}, line {number}", file.display()))
                })?;
            }
            (None, None) => {}
        }
    }
    Ok(found)
}

fn parse_line(line: &str, service: &str, settings: &mut Settings) -> Result<()> {
    if line.starts_with("ldap") {
        return Err(Error::usage("LDAP lookup of connection parameters is not supported"));
    }
    let Some((keyword, value)) = line.split_once('=') else {
        return Err(Error::usage("the line is not of the form keyword=value"));
    };
    if keyword == "service" || keyword == "servicefile" {
        return Err(Error::usage(format!("a service cannot set {keyword:?}")));
    }
    // The first of two lines counts, as in libpq.
    if settings.get(keyword).is_some() {
        return Ok(());
    }
    settings.set(keyword, value.to_owned(), Origin::Service(service.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::surroundings::fake::Fake;
    use super::*;

    const FILE: &str = "# comment\n[shop]\n host=db1 \nport=5433\nport=1\n\n[broken]\nhost\n[other]\n\
                        service=x\n[typo]\nhots=x\n[ldap]\nldap://x\n[shop]\nhost=second\n";

    fn group(name: &str) -> Result<Option<Settings>> {
        parse_group(FILE, name, Path::new("/f"))
    }

    #[test]
    fn a_group_ends_where_the_next_begins() {
        let shop = group("shop").unwrap().unwrap();
        assert_eq!(shop.get("host"), Some("db1"));
        assert_eq!(shop.get("port"), Some("5433"));
        assert!(group("sho").unwrap().is_none());
        assert!(group("shop]").unwrap().is_none());
        assert!(shop.named("host").contains("\"shop\""));
    }

    #[test]
    fn mistakes_are_named_by_file_and_line() {
        for (name, line, word) in
            [("broken", 8, "keyword=value"), ("other", 10, "service"), ("typo", 12, "hots")]
        {
            let text = group(name).err().unwrap().to_string();
            assert!(text.contains(&format!("/f, line {line}")) && text.contains(word), "{text}");
        }
        assert!(group("ldap").err().unwrap().to_string().contains("LDAP"));
    }

    #[test]
    fn the_users_file_comes_before_the_systems() {
        let machine = Fake::new()
            .file("/home/os/.pg_service.conf", 0o644, "[a]\nhost=user\n")
            .file("/etc/postgresql-common/pg_service.conf", 0o644, "[a]\nhost=sys\n[b]\nhost=b\n");
        let host = |name| load(name, None, &machine).unwrap().get("host").map(str::to_owned);
        assert_eq!(host("a").as_deref(), Some("user"));
        assert_eq!(host("b").as_deref(), Some("b"));
        let missing = load("c", None, &machine).err().unwrap();
        assert_eq!(missing.kind(), crate::error::Kind::Usage);
        assert!(missing.to_string().contains("\"c\""));
    }

    #[test]
    fn a_named_service_file_must_exist() {
        let machine = Fake::new().var("PGSYSCONFDIR", "/s").file(
            "/s/pg_service.conf",
            0o644,
            "[a]\nhost=sys\n",
        );
        assert!(load("a", None, &machine).is_ok());
        let error = load("a", Some("/missing"), &machine).err().unwrap();
        assert!(error.to_string().contains("/missing"), "{error}");
    }
}
