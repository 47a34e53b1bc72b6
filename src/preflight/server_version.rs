//! The server is of a version that this one knows.

use super::{Finding, Result, Subject};

/// 15 brought column lists in publications, without which the stream would carry whole rows.
const OLDEST: i32 = 15;
/// What comes after may hang things on a table that nobody here has heard of.
const NEWEST: i32 = 19;

pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    Ok(judge(subject.session.version() / 10_000).into_iter().collect())
}

fn judge(major: i32) -> Option<Finding> {
    if major < OLDEST {
        return Some(Finding::refuse(
            format!("the server is PostgreSQL {major}, which is too old"),
            format!("Upgrade the server to PostgreSQL {OLDEST} or newer"),
        ));
    }
    (major > NEWEST).then(|| {
        Finding::refuse(
            format!(
                "the server is PostgreSQL {major}, which this version of pgwraith does not know"
            ),
            format!(
                "Use a pgwraith that knows PostgreSQL {major}; this one knows {OLDEST} to {NEWEST}"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_and_unknown_servers_are_refused_by_name() {
        assert!(judge(14).unwrap().what.contains("PostgreSQL 14"));
        assert!((15..=19).all(|major| judge(major).is_none()));
        assert!(judge(20).unwrap().mend.contains("PostgreSQL 20"));
    }
}
