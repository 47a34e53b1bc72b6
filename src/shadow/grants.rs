//! Makes the privileges on one object equal others.

use super::Step;
use crate::catalog::{Grant, Table};
use crate::pg::quote_ident;

/// What is granted on one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Privileges<'a> {
    /// None is PostgreSQL's built-in default, which leaves everything to the owner.
    whole: Option<&'a [Grant]>,
    /// Those on single columns, by the column's name.
    columns: Vec<(&'a str, &'a [Grant])>,
}

impl<'a> Privileges<'a> {
    /// Those on a sequence.
    pub fn on_sequence(grants: Option<&'a [Grant]>) -> Self {
        Privileges { whole: grants, columns: Vec::new() }
    }

    /// Those on a table and its columns.
    pub fn on_table(table: &'a Table) -> Self {
        let columns = table.columns.iter();
        let granted = columns.filter_map(|c| Some((c.name.as_str(), c.grants.as_deref()?)));
        let system = table.system_columns.iter().map(|c| (c.name.as_str(), c.grants.as_slice()));
        Privileges {
            whole: table.grants.as_deref(),
            columns: granted.chain(system).filter(|(_, grants)| !grants.is_empty()).collect(),
        }
    }

    /// Every grant, with the column it is limited to.
    fn all(&self) -> impl Iterator<Item = (Option<&'a str>, &'a Grant)> {
        let whole = self.whole.unwrap_or_default().iter().map(|g| (None, g));
        let columns = self.columns.iter();
        whole.chain(columns.flat_map(|(name, grants)| grants.iter().map(|g| (Some(*name), g))))
    }
}

/// Turns the privileges `now` on `object` (`TABLE "s"."t"`) into `wanted`.
pub fn grant_steps(
    object: &str,
    owner: &str,
    now: &Privileges<'_>,
    wanted: &Privileges<'_>,
) -> Vec<Step> {
    if now == wanted {
        return Vec::new();
    }
    let mut out = revoke_all(object, owner, now, wanted);
    out.extend(in_order(owner, wanted).into_iter().map(|(column, grant)| {
        let privilege = match column {
            Some(column) => format!("{} ({})", grant.privilege, quote_ident(column)),
            None => grant.privilege.clone(),
        };
        // What the owner holds is grantable by nature.
        let option = grant.grantable && grant.grantee.as_deref() != Some(owner);
        let option = if option { " WITH GRANT OPTION" } else { "" };
        let to = render(grant.grantee.as_deref());
        Step::by(&grant.grantor, format!("GRANT {privilege} ON {object} TO {to}{option}"))
    }));
    out
}

/// Takes everything from everybody who has something; what they gave on goes with it. Privileges on
/// columns go with those on the table.
fn revoke_all(
    object: &str,
    owner: &str,
    now: &Privileges<'_>,
    wanted: &Privileges<'_>,
) -> Vec<Step> {
    let mut others: Vec<Option<&str>> = now.all().map(|(_, g)| g.grantee.as_deref()).collect();
    others.retain(|grantee| *grantee != Some(owner));
    others.sort();
    others.dedup();
    let revoke = |grantee| {
        Step::by(owner, format!("REVOKE ALL ON {object} FROM {} CASCADE", render(grantee)))
    };
    let mut out: Vec<Step> = others.into_iter().map(revoke).collect();
    match (now.whole, wanted.whole) {
        (_, Some(_)) => out.push(revoke(Some(owner))),
        (Some(_), None) => {
            out.push(Step::by(owner, format!("GRANT ALL ON {object} TO {}", render(Some(owner)))))
        }
        (None, None) => {}
    }
    out
}

/// Whoever gives on what was given to him comes after the one who gave it.
fn in_order<'a>(owner: &str, wanted: &Privileges<'a>) -> Vec<(Option<&'a str>, &'a Grant)> {
    let (mut out, mut waiting): (Vec<_>, Vec<_>) =
        wanted.all().partition(|(_, grant)| grant.grantor == owner);
    while !waiting.is_empty() {
        let may = |(column, grant): &(Option<&str>, &Grant), out: &[(Option<&str>, &Grant)]| {
            out.iter().any(|(on, given)| {
                given.grantable
                    && given.privilege == grant.privilege
                    && given.grantee.as_deref() == Some(&grant.grantor)
                    && (on.is_none() || on == column)
            })
        };
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.iter().partition(|grant| may(grant, &out));
        // None is ready where the right to give it on came by other ways, such as a membership.
        if ready.is_empty() {
            out.extend(rest);
            break;
        }
        out.extend(ready);
        waiting = rest;
    }
    out
}

fn render(role: Option<&str>) -> String {
    role.map_or("PUBLIC".to_owned(), quote_ident)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantor: &str, grantee: Option<&str>, privilege: &str, grantable: bool) -> Grant {
        Grant {
            grantor: grantor.into(),
            grantee: grantee.map(str::to_owned),
            privilege: privilege.into(),
            grantable,
        }
    }

    fn sql(now: &Privileges<'_>, wanted: &Privileges<'_>) -> Vec<String> {
        let steps = grant_steps("TABLE t", "o", now, wanted);
        steps.into_iter().map(|s| format!("{}: {}", s.role.unwrap(), s.sql)).collect()
    }

    #[test]
    fn default_privileges_are_taken_away_and_the_sources_given() {
        let now = [grant("o", None, "SELECT", false), grant("o", Some("bi"), "INSERT", false)];
        let wanted =
            [grant("o", Some("app"), "SELECT", true), grant("o", Some("o"), "SELECT", false)];
        let (now, wanted) =
            (Privileges::on_sequence(Some(&now)), Privileges::on_sequence(Some(&wanted)));
        assert_eq!(
            sql(&now, &wanted),
            [
                "o: REVOKE ALL ON TABLE t FROM PUBLIC CASCADE",
                "o: REVOKE ALL ON TABLE t FROM \"bi\" CASCADE",
                "o: REVOKE ALL ON TABLE t FROM \"o\" CASCADE",
                "o: GRANT SELECT ON TABLE t TO \"app\" WITH GRANT OPTION",
                "o: GRANT SELECT ON TABLE t TO \"o\"",
            ]
        );
        assert_eq!(
            sql(&now, &Privileges::default()),
            [
                "o: REVOKE ALL ON TABLE t FROM PUBLIC CASCADE",
                "o: REVOKE ALL ON TABLE t FROM \"bi\" CASCADE",
                "o: GRANT ALL ON TABLE t TO \"o\"",
            ]
        );
        assert!(sql(&wanted, &wanted).is_empty());
    }

    #[test]
    fn whoever_gives_on_comes_after_who_gave() {
        let on_column = [
            grant("b", Some("c"), "UPDATE", false),
            grant("a", Some("b"), "UPDATE", true),
            grant("o", Some("a"), "UPDATE", true),
        ];
        let wanted = Privileges { whole: None, columns: vec![("x", &on_column)] };
        assert_eq!(
            sql(&Privileges::default(), &wanted),
            [
                "o: GRANT UPDATE (\"x\") ON TABLE t TO \"a\" WITH GRANT OPTION",
                "a: GRANT UPDATE (\"x\") ON TABLE t TO \"b\" WITH GRANT OPTION",
                "b: GRANT UPDATE (\"x\") ON TABLE t TO \"c\"",
            ]
        );
    }
}
