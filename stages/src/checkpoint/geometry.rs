//! The size of an MMDiT, read off the shapes of its tensors, so that nobody can declare it wrong.

use std::fmt;

/// The width of an attention head: the same in every released model.
pub(crate) const HEAD_WIDTH: usize = 64;

/// The number of features of the timestep's sinusoid.
pub(crate) const TIMESTEP_FEATURES: usize = 256;

/// The one tensor of an MMDiT that is never trained: its table of positions. It is saved with the others.
pub const POSITION_TABLE: &str = "pos_embed";

/// Why no geometry follows from a network's shapes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A tensor that the geometry is read from is missing.
    #[error("{name} is missing; use the model's original single file")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor that the geometry is read from has a shape that no such network has.
    #[error("{name} has shape {shape:?}, but {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What holds for every such network.
        expected: &'static str,
    },
    /// An image of this size doesn't fit the model.
    #[error(
        "latents of {height}x{width} don't fit {model}: both sides must be multiples of {patch} from {patch} to {largest}"
    )]
    Latents {
        /// Latent rows.
        height: usize,
        /// Latent columns.
        width: usize,
        /// The model's name.
        model: MmditModel,
        /// The patch's side.
        patch: usize,
        /// The longest side that the position table covers.
        largest: usize,
    },
}

/// Which released model a geometry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MmditModel {
    /// Stable Diffusion 3 medium, 2 billion parameters.
    Sd3Medium,
    /// Stable Diffusion 3.5 medium, with a second attention in its first blocks.
    Sd35Medium,
    /// Stable Diffusion 3.5 large (and large turbo), 8 billion parameters.
    Sd35Large,
    /// Any other geometry.
    Custom,
}

impl MmditModel {
    /// The geometry that it was released with; none of what was not released.
    pub fn geometry(self) -> Option<MmditGeometry> {
        let (depth, qk_norm, dual, position_grid) = match self {
            Self::Sd3Medium => (24, false, 0, 192),
            Self::Sd35Medium => (24, true, 13, 384),
            Self::Sd35Large => (38, true, 0, 192),
            Self::Custom => return None,
        };
        Some(MmditGeometry {
            depth,
            width: HEAD_WIDTH * depth,
            heads: depth,
            qk_norm,
            dual_attention: (0..dual).collect(),
            position_grid,
            context_width: 4096,
            pooled_width: 2048,
            patch: 2,
            channels: 16,
        })
    }
}

impl fmt::Display for MmditModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sd3Medium => "sd3-medium",
            Self::Sd35Medium => "sd3.5-medium",
            Self::Sd35Large => "sd3.5-large",
            Self::Custom => "custom",
        })
    }
}

/// The size of an MMDiT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MmditGeometry {
    /// The number of joint blocks.
    pub depth: usize,
    /// Features of a token.
    pub width: usize,
    /// Attention heads, each [`MmditGeometry::head_width`] wide.
    pub heads: usize,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// The blocks whose image stream has a second attention, to itself alone.
    pub dual_attention: Vec<usize>,
    /// The side of the square table of positions, in patches.
    pub position_grid: usize,
    /// Features of a context token.
    pub context_width: usize,
    /// Features of the pooled text.
    pub pooled_width: usize,
    /// The side of a patch, in latent pixels.
    pub patch: usize,
    /// Channels of the latents.
    pub channels: usize,
}

impl MmditGeometry {
    /// Reads the geometry off the shapes of canonically named tensors (`x_embedder.proj.weight`, ...), as
    /// sd-scripts' `analyze_state_dict_state` does.
    ///
    /// # Errors
    /// When a tensor that it is read from is missing, or has a shape that no MMDiT has.
    pub fn of(shapes: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Self, GeometryError> {
        let dims = |name: &str| shapes(name).ok_or_else(|| GeometryError::Missing { name: name.into() });
        fn wrong<T>(name: &str, shape: &[usize], expected: &'static str) -> Result<T, GeometryError> {
            Err(GeometryError::Shape { name: name.into(), shape: shape.to_vec(), expected })
        }

        const PATCHES: &str = "x_embedder.proj.weight";
        let patches = dims(PATCHES)?;
        let &[width, channels, patch, patch_width] = patches.as_slice() else {
            return wrong(PATCHES, &patches, "it should have 4 dimensions");
        };
        if patch == 0 || patch != patch_width || channels == 0 {
            return wrong(PATCHES, &patches, "patches are square and not empty");
        }
        if width == 0 || width % HEAD_WIDTH != 0 {
            return wrong(PATCHES, &patches, "the width is a multiple of 64, the width of a head");
        }

        let positions = dims(POSITION_TABLE)?;
        let position_grid = match positions.as_slice() {
            &[1, count, _] if count > 0 && count.isqrt() * count.isqrt() == count => count.isqrt(),
            _ => return wrong(POSITION_TABLE, &positions, "it should be [1, side squared, width]"),
        };

        let columns = |name: &str| {
            let shape = dims(name)?;
            match shape.as_slice() {
                &[_, columns] if columns > 0 => Ok(columns),
                _ => wrong(name, &shape, "it should have 2 dimensions"),
            }
        };
        let context_width = columns("context_embedder.weight")?;
        let pooled_width = columns("y_embedder.mlp.0.weight")?;

        // Missing blocks in the middle then show as unknown ones at the end.
        let depth =
            (0..).take_while(|i| shapes(&format!("joint_blocks.{i}.x_block.attn.qkv.weight")).is_some()).count();
        if depth == 0 {
            return Err(GeometryError::Missing { name: "joint_blocks.0.x_block.attn.qkv.weight".into() });
        }
        const QUERY_NORM: &str = "joint_blocks.0.x_block.attn.ln_q.weight";
        let query_norm = shapes(QUERY_NORM);
        if let Some(shape) = query_norm.as_deref().filter(|shape| *shape != [HEAD_WIDTH]) {
            return wrong(QUERY_NORM, shape, "heads are 64 wide");
        }
        let dual_attention =
            (0..depth).filter(|i| shapes(&format!("joint_blocks.{i}.x_block.attn2.qkv.weight")).is_some()).collect();

        Ok(Self {
            depth,
            width,
            heads: width / HEAD_WIDTH,
            qk_norm: query_norm.is_some(),
            dual_attention,
            position_grid,
            context_width,
            pooled_width,
            patch,
            channels,
        })
    }

    /// Features of one attention head.
    pub fn head_width(&self) -> usize {
        HEAD_WIDTH
    }

    /// The released model that has this geometry. Its table of positions may have been made smaller or larger since.
    pub fn model(&self) -> MmditModel {
        let is = |model: &MmditModel| {
            model.geometry().is_some_and(|released| Self { position_grid: self.position_grid, ..released } == *self)
        };
        [MmditModel::Sd3Medium, MmditModel::Sd35Medium, MmditModel::Sd35Large]
            .into_iter()
            .find(is)
            .unwrap_or(MmditModel::Custom)
    }

    /// Whether latents of this size can go through the model.
    ///
    /// # Errors
    /// When a side is not a multiple of the patch, or longer than the table of positions.
    pub fn check_latents(&self, height: usize, width: usize) -> Result<(), GeometryError> {
        let (patch, largest) = (self.patch, self.patch * self.position_grid);
        let fits = |side: usize| side > 0 && side <= largest && side.is_multiple_of(patch);
        if fits(height) && fits(width) {
            Ok(())
        } else {
            Err(GeometryError::Latents { height, width, model: self.model(), patch, largest })
        }
    }
}

impl fmt::Display for MmditGeometry {
    /// The model's name.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.model().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::mmdit_names;
    use super::*;

    const MODELS: [(MmditModel, &str, usize, usize); 3] = [
        (MmditModel::Sd3Medium, "sd3-medium", 491, 2_028_328_000),
        (MmditModel::Sd35Medium, "sd3.5-medium", 665, 2_243_171_520),
        (MmditModel::Sd35Large, "sd3.5-large", 923, 8_056_627_520),
    ];

    #[test]
    fn released_models_have_the_known_number_of_tensors_and_parameters() {
        for (model, name, tensors, parameters) in MODELS {
            let names = mmdit_names(&model.geometry().unwrap());
            assert_eq!(names.len(), tensors, "{name}");
            let trained = names.iter().filter(|(name, _)| name != POSITION_TABLE);
            assert_eq!(trained.map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>(), parameters, "{name}");
        }
    }

    #[test]
    fn a_geometry_is_read_back_from_the_shapes_it_implies() {
        for (model, name, ..) in MODELS {
            let geometry = model.geometry().unwrap();
            let shapes: BTreeMap<_, _> = mmdit_names(&geometry).into_iter().collect();
            let read = MmditGeometry::of(|name| shapes.get(name).cloned()).unwrap();
            assert_eq!(read, geometry);
            assert_eq!((read.model(), read.to_string().as_str()), (model, name));
        }
    }

    #[test]
    fn latents_off_the_grid_are_refused() {
        let geometry = MmditModel::Sd3Medium.geometry().unwrap();
        assert!(geometry.check_latents(128, 384).is_ok());
        for (height, width) in [(127, 128), (128, 386), (0, 128)] {
            assert!(geometry.check_latents(height, width).is_err());
        }
    }
}
