//! Who overrides whom: connection string, then service, then environment, as in libpq.

use super::keyword::KEYWORDS;
use super::parse;
use super::service;
use super::settings::{Origin, Settings};
use super::surroundings::Surroundings;
use crate::error::Result;

/// Every value that is given anywhere.
pub(super) fn layered(dsn: Option<&str>, machine: &dyn Surroundings) -> Result<Settings> {
    let mut settings = parse::parse(dsn.unwrap_or_default())?;
    let environment = environment(&|name| machine.env(name))?;
    if let Some(name) = settings.given("service").or(environment.given("service")) {
        let file = settings.given("servicefile").or(environment.given("servicefile"));
        let service = service::load(name, file, machine)?;
        settings.fill_from(service);
    }
    settings.fill_from(environment);
    Ok(settings)
}

/// The parameters the environment sets.
fn environment(env: &dyn Fn(&str) -> Option<String>) -> Result<Settings> {
    let mut settings = Settings::default();
    for (keyword, variable) in KEYWORDS {
        let Some(variable) = variable else { continue };
        if let Some(value) = env(variable) {
            settings.set(keyword, value, Origin::Environment(variable))?;
        }
    }
    // Deprecated, and weaker than PGSSLMODE.
    if settings.get("sslmode").is_none() && env("PGREQUIRESSL").is_some_and(|v| v.starts_with('1'))
    {
        settings.set("sslmode", "require".to_owned(), Origin::Environment("PGREQUIRESSL"))?;
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::surroundings::fake::Fake;
    use super::*;

    fn machine() -> Fake {
        Fake::new()
            .file("/home/os/.pg_service.conf", 0o644, "[s]\nhost=service\nport=2\nuser=su\n")
            .var("PGHOST", "env")
            .var("PGPORT", "3")
            .var("PGDATABASE", "envdb")
    }

    #[test]
    fn the_connection_string_beats_the_service_beats_the_environment() {
        let settings = layered(Some("service=s host=dsn"), &machine()).unwrap();
        assert_eq!(settings.get("host"), Some("dsn"));
        assert_eq!(settings.get("port"), Some("2"));
        assert_eq!(settings.get("user"), Some("su"));
        assert_eq!(settings.get("dbname"), Some("envdb"));
    }

    #[test]
    fn the_service_may_be_named_in_the_environment() {
        let settings = layered(None, &machine().var("PGSERVICE", "s")).unwrap();
        assert_eq!(settings.get("host"), Some("service"));
        let elsewhere = machine().var("PGSERVICE", "t").var("PGSERVICEFILE", "/t").file(
            "/t",
            0o644,
            "[t]\nhost=t\n",
        );
        assert_eq!(layered(None, &elsewhere).unwrap().get("host"), Some("t"));
        assert!(layered(Some("service=none"), &machine()).is_err());
    }

    #[test]
    fn without_service_the_environment_fills_in() {
        let settings = layered(Some("postgresql://"), &machine()).unwrap();
        assert_eq!(settings.get("host"), Some("env"));
        let settings = layered(Some("host=''"), &machine()).unwrap();
        assert_eq!(settings.get("host"), Some(""));
    }

    #[test]
    fn every_variable_stands_for_its_keyword() {
        for (keyword, variable) in KEYWORDS {
            let Some(variable) = variable else { continue };
            let all = |name: &str| (name == *variable).then(|| "v".to_owned());
            assert_eq!(environment(&all).unwrap().get(keyword), Some("v"), "{variable}");
        }
    }

    #[test]
    fn pgrequiressl_is_weaker_than_pgsslmode() {
        let machine = Fake::new().var("PGREQUIRESSL", "1");
        assert_eq!(layered(None, &machine).unwrap().get("sslmode"), Some("require"));
        let machine = machine.var("PGSSLMODE", "disable");
        assert_eq!(layered(None, &machine).unwrap().get("sslmode"), Some("disable"));
    }
}
