//! Log sequence numbers. Their text differs between versions (19 pads the low half), so positions
//! are parsed and compared as numbers, never as strings.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use bytes::BytesMut;
use postgres_protocol::types::{lsn_from_sql, lsn_to_sql};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// A position in the write-ahead log (`pg_lsn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to this position, 0 where it is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("{text:?} is not a log position");
        let (hi, lo) = text.split_once('/').ok_or_else(bad)?;
        let half = |s: &str| u32::from_str_radix(s, 16).map_err(|_| bad());
        Ok(Lsn(u64::from(half(hi)?) << 32 | u64::from(half(lo)?)))
    }
}

impl<'a> FromSql<'a> for Lsn {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Lsn(lsn_from_sql(raw)?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_LSN
    }
}

impl ToSql for Lsn {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        lsn_to_sql(self.0, out);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_LSN
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_version_is_one_number() {
        assert_eq!("16/B374D848".parse::<Lsn>(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("16/00000042".parse::<Lsn>(), "16/42".parse::<Lsn>());
        assert!("A/0".parse::<Lsn>().unwrap() > "9/FFFFFFFF".parse::<Lsn>().unwrap());
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        for bad in ["", "/", "1/", "/1", "1/2/3", "g/1", "1/100000000", "-1/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
