//! Statements, and who runs each.

use crate::pg::quote_ident;

/// One statement of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The role it is run as; None is the tool's own, which has the rights of several owners.
    pub role: Option<String>,
    pub sql: String,
}

impl Step {
    /// A statement of `role`.
    pub fn by(role: &str, sql: impl Into<String>) -> Self {
        Step { role: Some(role.to_owned()), sql: sql.into() }
    }

    /// A statement of the tool's own role.
    pub fn by_tool(sql: impl Into<String>) -> Self {
        Step { role: None, sql: sql.into() }
    }
}

/// The steps as statements of one transaction, as the tool before and after them.
pub fn statements(steps: &[Step]) -> Vec<String> {
    let mut out = Vec::with_capacity(steps.len() + 2);
    let mut acting = &None;
    for step in steps {
        if &step.role != acting {
            acting = &step.role;
            out.push(set_role(acting.as_deref()));
        }
        out.push(step.sql.clone());
    }
    if acting.is_some() {
        out.push(set_role(None));
    }
    out
}

/// Acts as `role` until the transaction ends; None is the tool's own.
pub fn set_role(role: Option<&str>) -> String {
    format!("SET LOCAL ROLE {}", role.map_or("NONE".to_owned(), quote_ident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_set_where_it_changes() {
        let steps =
            [Step::by("a", "1"), Step::by("a", "2"), Step::by_tool("3"), Step::by("b\"", "4")];
        assert_eq!(
            statements(&steps),
            [
                "SET LOCAL ROLE \"a\"",
                "1",
                "2",
                "SET LOCAL ROLE NONE",
                "3",
                "SET LOCAL ROLE \"b\"\"\"",
                "4",
                "SET LOCAL ROLE NONE"
            ]
        );
        assert!(statements(&[]).is_empty());
    }
}
