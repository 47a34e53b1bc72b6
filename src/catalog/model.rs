//! What the catalogs say of one table.

use serde::Deserialize;

use super::parts::Part;
use crate::pg::QualifiedName;

/// One table, as it stood when it was read.
#[derive(Debug, Clone, Deserialize)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub owner: String,
    /// `pg_class.relkind`.
    pub kind: char,
    /// `pg_class.relpersistence`.
    pub persistence: char,
    pub access_method: Option<String>,
    /// None is the database's default tablespace.
    pub tablespace: Option<String>,
    pub is_partition: bool,
    pub row_security: bool,
    pub force_row_security: bool,
    /// Storage parameters, `name=value`.
    pub options: Vec<String>,
    /// Those of its TOAST table.
    pub toast_options: Vec<String>,
    pub comment: Option<String>,
    /// The comment on its row type.
    pub type_comment: Option<String>,
    /// `pg_class.relreplident`: d(efault), n(othing), f(ull), i(ndex).
    pub replica_identity: char,
    /// Estimated number of rows; negative where the table was never analyzed.
    pub estimated_rows: f64,
    pub heap_bytes: i64,
    pub total_bytes: i64,
    /// None is the built-in default: everything for the owner, nothing for others.
    pub grants: Option<Vec<Grant>>,
    /// Those that somebody was granted something on.
    pub system_columns: Vec<SystemColumn>,
    pub columns: Vec<Column>,
    pub indexes: Vec<Index>,
    /// Its own constraints but foreign keys.
    pub constraints: Vec<Constraint>,
    pub sequences: Vec<Sequence>,
    /// Extended statistics.
    pub statistics: Vec<Statistics>,
    /// From it, to it and to itself.
    pub foreign_keys: Vec<ForeignKey>,
    /// What follows PARTITION BY, where it is a partitioned one.
    #[serde(default)]
    pub partition_key: Option<String>,
    /// Its partitions.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// One privilege in an access control list.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub grantor: String,
    /// None is PUBLIC.
    pub grantee: Option<String>,
    pub privilege: String,
    pub grantable: bool,
}

/// A column that every table has (`xmin`, `ctid`).
#[derive(Debug, Clone, Deserialize)]
pub struct SystemColumn {
    pub name: String,
    pub grants: Vec<Grant>,
}

/// One live column.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    pub attnum: i16,
    pub name: String,
    pub type_oid: u32,
    /// The type as SQL, with its modifier.
    pub type_sql: String,
    /// The type as SQL without modifier.
    pub base_type_sql: String,
    pub type_schema: String,
    pub type_name: String,
    /// `pg_type.typtype`.
    pub type_kind: char,
    /// `pg_type.typcategory`; a domain has that of its type.
    pub type_category: char,
    /// Whether the type has a binary form.
    pub has_binary: bool,
    /// Quoted and qualified; None where it is the type's own.
    pub collation: Option<String>,
    /// The same, the type's own too; None where it has none.
    #[serde(default)]
    pub collated: Option<String>,
    pub collation_deterministic: bool,
    /// Where the type's own `=` and `<` are.
    pub operator_schema: String,
    /// Proven; NOT NULL NOT VALID (18 and newer) is only a constraint.
    pub not_null: bool,
    pub default: Option<String>,
    /// Whether it names the table itself or the sequence of one of its identity columns.
    pub default_names_table: bool,
    /// `pg_attribute.attgenerated`: empty, `s`, `v`.
    pub generated: String,
    /// `pg_attribute.attidentity`: empty, `a`, `d`.
    pub identity: String,
    /// `pg_attribute.attstorage`: p(lain), e(xternal), m(ain), x (extended).
    pub storage: char,
    /// `pg_attribute.attcompression`: empty, `p` (pglz), `l` (lz4).
    pub compression: String,
    /// None is the server's `default_statistics_target`.
    pub statistics_target: Option<i32>,
    /// `n_distinct` and `n_distinct_inherited`, as `name=value`.
    pub options: Vec<String>,
    pub grants: Option<Vec<Grant>>,
    pub comment: Option<String>,
}

/// One index.
#[derive(Debug, Clone, Deserialize)]
pub struct Index {
    pub oid: u32,
    pub name: String,
    /// What follows the table's name in the definition: `USING btree (…) …`.
    pub definition: String,
    pub unique: bool,
    pub primary: bool,
    pub exclusion: bool,
    /// Not deferrable: checked at once.
    pub immediate: bool,
    pub valid: bool,
    pub replica_identity: bool,
    pub clustered: bool,
    pub partial: bool,
    /// Attribute numbers of the key columns, 0 for an expression.
    pub attnums: Vec<i16>,
    /// The key columns as SQL, without collation and operator class.
    pub expressions: Vec<String>,
    /// Whether every key column has its column's collation and its type's default operator class.
    pub plain_key: bool,
    pub bytes: i64,
    /// None is the database's default tablespace.
    pub tablespace: Option<String>,
    /// Storage parameters, `name=value`.
    pub options: Vec<String>,
    /// Statistics targets of its columns that have one: the column's number and the target.
    pub statistics_targets: Vec<(i16, i32)>,
    pub comment: Option<String>,
    /// It is there until the swap and no longer: by it the sync finds rows that no index of the future table
    /// finds.
    #[serde(default)]
    pub until_swap: bool,
}

/// One constraint of the table itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Constraint {
    pub oid: u32,
    pub name: String,
    /// `pg_constraint.contype`.
    pub kind: char,
    /// `pg_get_constraintdef`.
    pub definition: String,
    pub validated: bool,
    pub deferrable: bool,
    pub deferred: bool,
    /// The index behind it, 0 where there is none.
    pub index_oid: u32,
    /// Its last column is WITHOUT OVERLAPS (18 and newer).
    pub temporal: bool,
    /// Not for inheriting tables.
    pub no_inherit: bool,
    /// The columns it is about.
    pub attnums: Vec<i16>,
    pub comment: Option<String>,
}

/// A sequence owned by a column.
#[derive(Debug, Clone, Deserialize)]
pub struct Sequence {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// The owning column.
    pub attnum: i16,
    /// Made for an identity column (else by serial or OWNED BY).
    pub identity: bool,
    pub type_sql: String,
    pub start: i64,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cache: i64,
    pub cycle: bool,
    pub grants: Option<Vec<Grant>>,
    pub comment: Option<String>,
    /// The sequence, as SQL, this one goes on from at the swap: a serial's, whose column
    /// becomes an identity column.
    #[serde(default)]
    pub goes_on_from: Option<String>,
}

/// One object of extended statistics.
#[derive(Debug, Clone, Deserialize)]
pub struct Statistics {
    pub schema: String,
    pub name: String,
    pub owner: String,
    /// Kinds, columns and expressions: what stands between its name and FROM in the definition;
    /// empty where this version cannot read it.
    pub definition: String,
    /// None is the server's `default_statistics_target`.
    pub target: Option<i32>,
    pub comment: Option<String>,
}

impl Statistics {
    /// Its qualified name.
    pub fn qualified(&self) -> QualifiedName {
        QualifiedName::new(&self.schema, &self.name)
    }
}

/// One foreign key from or to a table.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    /// The table that refers.
    pub from: Partner,
    /// The table that is referred to.
    pub to: Partner,
    /// `pg_get_constraintdef`.
    pub definition: String,
    /// The columns that refer.
    pub columns: Vec<i16>,
    /// The columns that are referred to, and their names.
    pub to_columns: Vec<i16>,
    pub to_names: Vec<String>,
    pub validated: bool,
    pub comment: Option<String>,
    /// The definition of the key of `to` that it refers to: as a constraint, or what follows the
    /// table's name in CREATE UNIQUE INDEX.
    pub to_key: String,
    pub to_key_is_constraint: bool,
}

/// A table at one end of a foreign key.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Partner {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub owner: String,
    /// `pg_class.relkind`.
    pub kind: char,
    /// Whether row security applies to its owner too.
    pub forces_row_security: bool,
}

impl Partner {
    /// The table's qualified name.
    pub fn qualified(&self) -> QualifiedName {
        QualifiedName::new(&self.schema, &self.name)
    }
}

/// The columns that identify a row in the stream.
#[derive(Debug, Clone)]
pub struct Key<'a> {
    pub index: &'a Index,
    pub columns: Vec<&'a Column>,
}

impl Table {
    /// The table's qualified name.
    pub fn qualified(&self) -> QualifiedName {
        QualifiedName::new(&self.schema, &self.name)
    }

    /// The same under another name, with other names of its indexes, the constraints over them, and
    /// its statistics.
    pub fn renamed(mut self, name: &QualifiedName, rename: impl Fn(&str) -> String) -> Table {
        let over_index = |c: &&mut Constraint| c.index_oid != 0;
        let constraints = self.constraints.iter_mut().filter(over_index).map(|c| &mut c.name);
        let indexes = self.indexes.iter_mut().map(|i| &mut i.name);
        let statistics = self.statistics.iter_mut().map(|s| &mut s.name);
        for own in constraints.chain(indexes).chain(statistics) {
            *own = rename(own);
        }
        (self.schema, self.name) = (name.schema.clone(), name.name.clone());
        self
    }

    /// The number that its column `attnum` has in a clone: those are numbered by the order of the live
    /// columns.
    pub fn position(&self, attnum: i16) -> Option<i16> {
        self.columns.iter().position(|c| c.attnum == attnum).map(|i| i as i16 + 1)
    }

    /// What becomes of its column `attnum` in `target`, which was read from an altered clone.
    pub fn becomes<'t>(&self, attnum: i16, target: &'t Table) -> Option<&'t Column> {
        target.column(self.position(attnum)?)
    }

    /// What rows look like and which indexes they are in: what was copied and built.
    pub fn shape(&self) -> Vec<[&str; 3]> {
        let columns = self.columns.iter();
        let columns = columns.map(|c| [&c.name, &c.type_sql, c.collation.as_deref().unwrap_or("")]);
        columns.chain(self.indexes.iter().map(|i| [&i.name, "", ""])).collect()
    }

    /// Whether row security applies to the owner too.
    pub fn forces_row_security(&self) -> bool {
        self.row_security && self.force_row_security
    }

    /// The column with attribute number `attnum`.
    pub fn column(&self, attnum: i16) -> Option<&Column> {
        self.columns.iter().find(|c| c.attnum == attnum)
    }

    /// The column called `name`.
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The sequence of an identity column of its.
    pub fn identity_of(&self, column: &Column) -> Option<&Sequence> {
        self.sequences.iter().find(|s| s.identity && s.attnum == column.attnum)
    }

    /// The constraint that `index` stands behind.
    pub fn constraint_of(&self, index: &Index) -> Option<&Constraint> {
        self.constraints.iter().find(|c| c.index_oid == index.oid && "pux".contains(c.kind))
    }

    /// The key: the replica identity index, or with FULL the primary key. Says why there is none.
    pub fn key(&self) -> Result<Key<'_>, String> {
        let index = match self.replica_identity {
            'd' | 'f' => self.indexes.iter().find(|i| i.primary).ok_or("it has no primary key")?,
            'i' => self
                .indexes
                .iter()
                .find(|i| i.replica_identity)
                .ok_or("its replica identity index was dropped")?,
            _ => return Err("its REPLICA IDENTITY is NOTHING".into()),
        };
        let name = &index.name;
        if !index.immediate {
            return Err(format!("its key {name:?} is deferrable"));
        }
        if index.exclusion {
            return Err(format!("its key {name:?} is WITHOUT OVERLAPS"));
        }
        if !index.valid || !index.unique || index.partial {
            return Err(format!("its key {name:?} is not a valid unique index over all rows"));
        }
        if !index.plain_key {
            return Err(format!(
                "its key {name:?} uses a collation or operator class that is not its column's own"
            ));
        }
        let columns = index
            .attnums
            .iter()
            .map(|&n| self.column(n).ok_or_else(|| format!("its key {name:?} has an expression")))
            .collect::<Result<Vec<_>, _>>()?;
        for column in &columns {
            if !column.not_null {
                return Err(format!("its key column {:?} may be NULL", column.name));
            }
            if !column.generated.is_empty() {
                return Err(format!("its key column {:?} is generated", column.name));
            }
            // Sets of keys are sent as one array a column, and PostgreSQL unnests nested ones whole.
            if matches!(column.type_category, 'A' | 'C') {
                return Err(format!(
                    "its key column {:?} is an array or a composite value",
                    column.name
                ));
            }
            if !column.has_binary {
                return Err(format!(
                    "the type of its key column {:?}, {}, has no binary form",
                    column.name, column.type_sql
                ));
            }
        }
        Ok(Key { index, columns })
    }
}
