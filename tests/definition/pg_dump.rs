//! What `pg_dump --schema-only` says of a database, as entries whose order means nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgwraith::demo::cluster::ServerBinaries;

/// The last version whose server programs must come with pg_dump. Those from npm, by which newer
/// servers are tested, have none.
const NEEDED: u32 = 15;

/// The program; none where the servers are newer than [`NEEDED`] and have none beside them.
pub fn program(major: u32) -> Option<PathBuf> {
    let program = ServerBinaries::find().unwrap().folder().join("pg_dump");
    (major <= NEEDED || program.exists()).then_some(program)
}

/// The output of a dump with these arguments.
pub fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .arg("--schema-only")
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The entries for the whole database, sorted, without our schema and the tables `retired`.
pub fn entries(program: &Path, dsn: &str, retired: &[String]) -> Vec<String> {
    let mut arguments = vec!["-d", dsn, "-N", "pgwraith"];
    arguments.extend(retired.iter().flat_map(|table| ["-T", table]));
    let text = output(program, &arguments);
    let mut found = Vec::new();
    let mut tablespace = "default";
    for (n, entry) in text.split("\n--\n-- Name: ").enumerate() {
        let (head, body) = entry.split_once('\n').unwrap();
        let kept: Vec<&str> = body.lines().filter(|line| !ignored(line)).collect();
        if n == 0 {
            // What comes before the first entry.
        } else if head.contains("; Type: ACL; ") {
            found.extend(grants(head, &kept));
        } else if PLACED.iter().any(|kind| head.contains(kind)) {
            found.push(format!("{head} in {tablespace}\n{}", kept.join("\n")));
        } else {
            found.push(format!("{head}\n{}", kept.join("\n")));
        }
        // It is set after the entry before, where it changes.
        tablespace = body.lines().filter_map(tablespace_of).next_back().unwrap_or(tablespace);
    }
    found.sort();
    found
}

/// Kinds of entries that are made in the tablespace which is set then.
const PLACED: [&str; 4] =
    ["; Type: TABLE; ", "; Type: INDEX; ", "; Type: CONSTRAINT; ", "; Type: MATERIALIZED VIEW; "];

fn tablespace_of(line: &str) -> Option<&str> {
    let name = line.strip_prefix("SET default_tablespace = ")?.strip_suffix(';')?;
    Some(if name == "''" { "default" } else { name })
}

/// Lines that are no part of a definition, or hold for more entries than their own.
fn ignored(line: &str) -> bool {
    line.is_empty()
        || line == "--"
        || line == "-- PostgreSQL database dump complete"
        || line.starts_with("\\unrestrict")
        || line.starts_with("SET default_table")
}

/// Each GRANT and REVOKE by itself with whom it is made by: their order is that of the privileges.
fn grants(head: &str, statements: &[&str]) -> Vec<String> {
    let mut by = "the owner".to_owned();
    let mut found = Vec::new();
    for statement in statements {
        if let Some(role) = statement.strip_prefix("SET SESSION AUTHORIZATION ") {
            by = role.to_owned();
        } else if statement.starts_with("RESET SESSION AUTHORIZATION") {
            by = "the owner".to_owned();
        } else {
            found.push(format!("{head} by {by}: {statement}"));
        }
    }
    found
}
