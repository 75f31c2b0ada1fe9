//! The store of sd3pipe: what was made, from what, and where it lies.
//!
//! Objects are immutable bytes named by their BLAKE3 digest. A record says which objects an action made; it is found
//! by the action's key, the digest of a canonical encoding of all that the action read. The stat cache spares reading
//! input files again that have not changed. Nothing here knows a tensor, and nothing here prints.

mod digest;
mod encoding;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod index;
mod key;
mod lock;
mod object;
mod record;
mod runs;
mod stat;
mod store;
mod value;

pub use digest::{Digest, DigestError};
pub use error::{KeyError, StoreError};
pub use key::{Change, Key, Preimage, diff};
pub use lock::Claim;
pub use object::{Object, ObjectWriter};
pub use record::{Output, Record};
pub use runs::Run;
pub use stat::{FileDigests, Fingerprint};
pub use store::Store;
