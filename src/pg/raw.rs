//! Values as the bytes of the server's own binary form. Key bounds and keys travel this way: the
//! bytes that `typsend` made go back to `typreceive` untouched, so no text setting (DateStyle,
//! TimeZone, extra_float_digits) and no client encoding can change a key on its way.

use std::error::Error;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// One value in its type's binary form, of whatever type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Raw(Bytes::copy_from_slice(raw)))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Text for people to read. In a SQL_ASCII database, and in what other databases' sessions run, it
/// may hold bytes that are no UTF-8: they are shown as replacement characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lossy(pub String);

impl<'a> FromSql<'a> for Lossy {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Lossy(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

impl std::fmt::Display for Lossy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A one-dimensional array without NULLs, built from its elements' binary forms
/// (`array_recv`: dimensions, flags, element type, length, lower bound, elements).
#[derive(Debug, Clone)]
pub struct RawArray {
    element_oid: u32,
    count: i32,
    body: BytesMut,
}

impl RawArray {
    /// An empty array whose elements have the type `element_oid`.
    pub fn new(element_oid: u32) -> Self {
        RawArray { element_oid, count: 0, body: BytesMut::new() }
    }

    /// Appends an element.
    pub fn push(&mut self, element: &[u8]) {
        self.body.put_i32(element.len() as i32);
        self.body.extend_from_slice(element);
        self.count += 1;
    }
}

impl ToSql for RawArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32(i32::from(self.count > 0));
        out.put_i32(0);
        out.put_u32(self.element_oid);
        if self.count > 0 {
            out.put_i32(self.count);
            out.put_i32(1);
            out.extend_from_slice(&self.body);
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
