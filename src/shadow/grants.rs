//! Makes one access control list equal another.

use crate::catalog::Grant;
use crate::pg::quote_ident;

/// Statements that turn the privileges `now` on `object` (`TABLE "s"."t"`) into `wanted`. `None` is
/// PostgreSQL's built-in default, which leaves everything to the owner.
pub fn grant_statements(
    object: &str,
    owner: &str,
    now: Option<&[Grant]>,
    wanted: Option<&[Grant]>,
) -> Vec<String> {
    if now == wanted {
        return Vec::new();
    }
    let mut out: Vec<String> = Vec::new();
    for role in grantees(now, owner).into_iter().chain(wanted.map(|_| Some(owner.to_owned()))) {
        let keep_owner = wanted.is_none() && role.as_deref() == Some(owner);
        if !keep_owner {
            out.push(format!("REVOKE ALL ON {object} FROM {}", render(role.as_deref())));
        }
    }
    for grant in wanted.unwrap_or_default() {
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        // What the owner holds is grantable by nature.
        let option = if grant.grantee.as_deref() == Some(owner) { "" } else { option };
        let to = render(grant.grantee.as_deref());
        out.push(format!("GRANT {} ON {object} TO {to}{option}", grant.privilege));
    }
    out.dedup();
    out
}

fn grantees(grants: Option<&[Grant]>, owner: &str) -> Vec<Option<String>> {
    let mut roles: Vec<Option<String>> =
        grants.unwrap_or_default().iter().map(|g| g.grantee.clone()).collect();
    roles.retain(|r| r.as_deref() != Some(owner));
    roles.sort();
    roles.dedup();
    roles
}

fn render(role: Option<&str>) -> String {
    role.map_or("PUBLIC".to_owned(), quote_ident)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantee: Option<&str>, privilege: &str, grantable: bool) -> Grant {
        Grant {
            grantor: "o".into(),
            grantee: grantee.map(str::to_owned),
            privilege: privilege.into(),
            grantable,
        }
    }

    #[test]
    fn default_privileges_are_taken_away_and_the_sources_given() {
        let now = [grant(None, "SELECT", false), grant(Some("bi"), "INSERT", false)];
        let wanted = [grant(Some("app"), "SELECT", true), grant(Some("o"), "SELECT", false)];
        assert_eq!(
            grant_statements("TABLE t", "o", Some(&now), Some(&wanted)),
            [
                "REVOKE ALL ON TABLE t FROM PUBLIC",
                "REVOKE ALL ON TABLE t FROM \"bi\"",
                "REVOKE ALL ON TABLE t FROM \"o\"",
                "GRANT SELECT ON TABLE t TO \"app\" WITH GRANT OPTION",
                "GRANT SELECT ON TABLE t TO \"o\"",
            ]
        );
        assert_eq!(
            grant_statements("TABLE t", "o", Some(&now), None),
            ["REVOKE ALL ON TABLE t FROM PUBLIC", "REVOKE ALL ON TABLE t FROM \"bi\""]
        );
        assert!(grant_statements("TABLE t", "o", Some(&wanted), Some(&wanted)).is_empty());
    }
}
