//! The store of sd3pipe: what was made, from what, and where it lies.
//!
//! Objects are immutable bytes named by their BLAKE3 digest. A record says which objects an action made; it is found
//! by the action's key, the digest of a canonical encoding of all that the action read. The stat cache spares reading
//! input files again that have not changed. Nothing here knows a tensor, and nothing here prints.

mod census;
mod common;
mod digest;
mod encoding;
mod error;
mod fault;
pub mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gc;
mod index;
#[cfg(feature = "faults")]
mod injection;
mod key;
mod layout;
mod live;
mod lock;
mod making;
mod network;
mod object;
mod pin;
mod record;
mod runs;
mod schema;
mod seal;
mod stat;
mod store;
mod usage;
mod value;
mod verify;
mod written;

pub use census::StagesOf;
pub use common::Common;
pub use digest::{Digest, DigestError};
pub use error::{KeyError, StoreError};
pub use fault::Fault;
pub use gc::{Collection, Limits, Part};
pub use key::{Change, Key, Preimage, diff};
pub use making::Making;
pub use object::{Object, ObjectWriter};
pub use pin::{Pin, RunStage};
pub use record::{Output, Record};
pub use runs::Run;
pub use stat::{FileDigests, Fingerprint};
pub use store::Store;
pub use usage::{Needs, Usage};
pub use verify::{Reading, Verified};
