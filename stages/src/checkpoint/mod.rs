//! Model files: what is in them, which network it belongs to, and whether it is complete. No tensor library here.

mod component;
mod error;
mod expected;
mod geometry;
mod layout;
mod source;
mod tensor_file;
mod tensor_set;
mod view;

pub use component::Component;
pub use error::CheckpointError;
pub use expected::{block_of, expected_names, mmdit_names};
#[cfg(feature = "compute")]
pub(crate) use geometry::TIMESTEP_FEATURES;
pub use geometry::{GeometryError, MmditGeometry, MmditModel, POSITION_TABLE};
pub(crate) use layout::Form;
pub use layout::Layout;
pub use source::ComponentSource;
pub use tensor_file::{TensorFile, TensorInfo};
pub use tensor_set::{TensorSet, component_files};
pub use view::TensorView;

pub use safetensors::Dtype;
