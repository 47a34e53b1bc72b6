//! What a check found, and what becomes of all findings.

use std::fmt;

use super::{Error, Result, Session};
use crate::error::Kind;

/// What a finding means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The run must not start.
    Refuse,
    /// The run may start; the operator should know what can happen.
    Warn,
    /// Good to know.
    Note,
}

/// One thing that a check found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    pub severity: Severity,
    /// What is so, without a final full stop.
    pub what: String,
    /// What to do about it, without a final full stop; SQL to be run as it stands where there is any.
    pub mend: String,
}

impl Finding {
    pub(super) fn refuse(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Severity::Refuse, what.into(), mend.into())
    }

    pub(super) fn warn(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Severity::Warn, what.into(), mend.into())
    }

    pub(super) fn note(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Severity::Note, what.into(), mend.into())
    }

    /// The check's name is put in where the check is called.
    fn new(severity: Severity, what: String, mend: String) -> Self {
        Finding { check: "", severity, what, mend }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}.", self.check, self.what, self.mend)
    }
}

/// Takes in what the checks found, or that they could not find out.
pub(super) struct Report<'a> {
    session: &'a Session,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn of(session: &'a Session) -> Self {
        Report { session, findings: Vec::new() }
    }

    /// A check that failed stands in the way, and the others go on; but not without a session. That
    /// it is lost is asked of the session itself: a check may have failed at a connection of its own.
    pub(super) async fn take(
        &mut self,
        check: &'static str,
        found: Result<Vec<Finding>>,
    ) -> Result<()> {
        let found = match found {
            Ok(found) => found,
            Err(e) if self.session.batch("SELECT 1").await.is_err() => return Err(e),
            Err(e) => vec![Finding::refuse(
                format!("it could not be found out whether this stands in the way: {e}"),
                "Remove what the message names, so that the check can answer",
            )],
        };
        self.findings.extend(found.into_iter().map(|finding| Finding { check, ..finding }));
        Ok(())
    }

    pub(super) fn findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// The one error for everything that refuses `table`, or None where nothing does.
pub fn refuse(findings: &[Finding], table: &str) -> Option<Error> {
    let refusals: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Refuse)
        .map(|f| format!("\n  {f}"))
        .collect();
    if refusals.is_empty() {
        return None;
    }
    let what = format!(
        "preflight refuses {table}; found in the way: {}{}\nNothing was touched",
        refusals.len(),
        refusals.concat()
    );
    Some(Error::new(Kind::Refused, what).state("The table is as it was and in use"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_lists_every_refusal_with_its_mend() {
        let named = |check, f: Finding| Finding { check, ..f };
        let findings = [
            named("usable_key", Finding::refuse("it has no primary key", "Add one")),
            named("disk", Finding::note("it is large", "Look")),
            named("primary", Finding::refuse("this is a standby", "Connect to the primary")),
        ];
        let error = refuse(&findings, "public.orders").unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(
            error.to_string(),
            "preflight refuses public.orders; found in the way: 2\n  \
             usable_key: it has no primary key. Add one.\n  \
             primary: this is a standby. Connect to the primary.\n\
             Nothing was touched. The table is as it was and in use"
        );
        assert!(refuse(&findings[1..2], "public.orders").is_none());
    }
}
