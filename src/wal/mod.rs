mod cursor;
pub mod decode;
pub mod frame;
pub mod xid;
