//! Which connections are meant.

/// A role, `*` standing for any text: `copy *`, `stream`, `*`.
#[derive(Debug, Clone)]
pub(super) struct Pattern(String);

impl Pattern {
    pub(super) fn new(text: &str) -> Pattern {
        Pattern(text.to_owned())
    }

    /// Whether it is meant by this application name.
    pub(super) fn fits(&self, name: &str) -> bool {
        let role = role(name);
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| role.strip_prefix(first)) else {
            return false;
        };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// What is left of `pgwraith/<migration>/<role>` or `pgwraith/<role>`; another's name as it is.
fn role(name: &str) -> &str {
    let Some(own) = name.strip_prefix("pgwraith/") else { return name };
    match own.split_once('/') {
        Some((migration, role)) if migration.bytes().all(|b| b.is_ascii_digit()) => role,
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_known_by_their_pattern() {
        let fits = |pattern: &str, name: &str| Pattern::new(pattern).fits(name);
        assert!(fits("stream", "pgwraith/12/stream") && fits("abort", "pgwraith/abort"));
        assert!(fits("copy *", "pgwraith/12/copy 3") && !fits("copy *", "pgwraith/12/plan"));
        assert!(!fits("copy 1", "pgwraith/12/copy 11") && !fits("y 1", "pgwraith/12/copy 1"));
        assert!(fits("*", "") && fits("*", "psql") && fits("psql", "psql") && !fits("", "psql"));
        assert!(fits("*py*1", "copy 1") && !fits("co*opy 1", "copy 1"));
    }
}
