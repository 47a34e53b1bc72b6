//! What partitions are called: as pg_partman calls those of a time and of a number, so that it can take them
//! over (`orders_p20240101`, `orders_p20240101_130000`, `orders_p100000`, `orders_default`).

use std::collections::HashSet;

use super::Partition;
use crate::catalog::Part;
use crate::pg::name::free_name;
use crate::shadow::Names;

/// Of a value's text, in a name.
const VALUE_BYTES: usize = 30;

/// Gives out the names of one table's partitions, no two alike.
pub(super) struct Naming<'a> {
    table: &'a str,
    used: HashSet<String>,
    /// Names of the source's partitions and of their indexes, which those have until the swap.
    held: HashSet<String>,
}

impl<'a> Naming<'a> {
    pub(super) fn of(names: &'a Names, parts: &[Part]) -> Self {
        let used = [&names.source, &names.shadow, &names.retired].map(|name| name.name.clone());
        let beside = parts.iter().filter(|part| part.schema == names.source.schema);
        let held = beside.flat_map(|part| part.relations.iter().cloned()).collect();
        Naming { table: &names.source.name, used: used.into(), held }
    }

    /// These are taken too, where it is not the source's partitions that have them: those give them up.
    pub(super) fn reserve(&mut self, names: impl IntoIterator<Item = String>) {
        let held = &self.held;
        self.used.extend(names.into_iter().filter(|name| !held.contains(name)));
    }

    /// A partition whose name ends in `suffix`.
    pub(super) fn partition(&mut self, suffix: &str, bound: impl Into<String>) -> Partition {
        let name = free_name(self.table, suffix, |name| self.used.contains(name));
        self.named(&name, bound)
    }

    /// A partition of this name, in the end.
    pub(super) fn named(&mut self, name: &str, bound: impl Into<String>) -> Partition {
        let (name, bound) = (name.to_owned(), bound.into());
        self.used.insert(name.clone());
        if !self.held.contains(&name) {
            return Partition::of_rows(name, bound);
        }
        let taken = |name: &str| self.used.contains(name) || self.held.contains(name);
        let until_then = free_name(&name, "_v2", taken);
        self.used.insert(until_then.clone());
        Partition { becomes: Some(name), ..Partition::of_rows(until_then, bound) }
    }

    /// That of the rows for which there is no other.
    pub(super) fn default(&mut self) -> Partition {
        self.partition("_default", "DEFAULT")
    }
}

/// What the name of the partition of a value ends in.
pub(super) fn suffix_of_value(value: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() { c } else { '_' };
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let mut out = String::from(if is_number { "_p" } else { "_" });
    for c in value.to_lowercase().chars().map(plain) {
        if out.len() + c.len_utf8() > VALUE_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::QualifiedName;

    #[test]
    fn values_become_names_and_no_two_are_alike() {
        let names = Names::of(&QualifiedName::new("s", "t"));
        let mut naming = Naming::of(&names, &[]);
        let mut name = |suffix: &str| naming.partition(suffix, "").name;
        assert_eq!(name("_default"), "t_default");
        for (value, wanted) in [
            ("new", "t_new"),
            ("New", "t_new1"),
            ("in transit!", "t_in_transit_"),
            ("17", "t_p17"),
            ("", "t_"),
            ("v2", "t_v21"),
            ("old", "t_old1"),
            ("Default", "t_default1"),
        ] {
            assert_eq!(name(&suffix_of_value(value)), wanted, "{value}");
        }
        assert!(suffix_of_value(&"ü".repeat(100)).len() <= VALUE_BYTES);
    }

    #[test]
    fn what_is_taken_by_others_is_given_to_nobody() {
        let names = Names::of(&QualifiedName::new("s", "t"));
        let mut naming = Naming::of(&names, &[]);
        naming.reserve(["t_a".to_owned(), "t_a1".to_owned()]);
        assert_eq!(naming.partition("_a", "").name, "t_a2");
    }

    #[test]
    fn a_long_name_keeps_what_tells_partitions_apart() {
        let names = Names::of(&QualifiedName::new("s", "t".repeat(63)));
        let name = Naming::of(&names, &[]).partition("_p20240101_130000", "").name;
        assert!(name.len() == 63 && name.ends_with("t_p20240101_130000"), "{name}");
    }
}
