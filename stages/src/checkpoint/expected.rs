//! The tensors that each network must have: names and shapes, from its geometry.

use super::geometry::{POSITION_TABLE, TIMESTEP_FEATURES};
use super::{Component, GeometryError, MmditGeometry};

/// Names and shapes, in the order in which the networks use them.
type Names = Vec<(String, Vec<usize>)>;

/// Looks up the shape of a canonically named tensor.
type Shapes<'s> = &'s dyn Fn(&str) -> Option<Vec<usize>>;

/// Every tensor that a network has, with the geometry read off the shapes that are there.
///
/// # Errors
/// When a tensor that the geometry is read from is missing or of the wrong rank.
pub fn expected_names(component: Component, shapes: Shapes<'_>) -> Result<Names, GeometryError> {
    match component {
        Component::Mmdit => Ok(mmdit_names(&MmditGeometry::of(shapes)?)),
        Component::VaeEncoder => vae_encoder_names(shapes),
        Component::VaeDecoder => vae_decoder_names(shapes),
        Component::ClipL | Component::ClipG => clip_names(shapes),
        Component::T5 => t5_names(shapes),
    }
}

/// The joint block of an MMDiT that a tensor belongs to, by its name.
pub fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("joint_blocks.")?.split('.').next()?.parse().ok()
}

/// Every tensor of an MMDiT: 491 for SD3-medium, 665 for SD3.5-medium and 923 for SD3.5-large.
pub fn mmdit_names(geometry: &MmditGeometry) -> Names {
    let width = geometry.width;
    let mut list = List::default();
    list.add(POSITION_TABLE, &[1, geometry.position_grid * geometry.position_grid, width]);
    list.add("x_embedder.proj.weight", &[width, geometry.channels, geometry.patch, geometry.patch]);
    list.add("x_embedder.proj.bias", &[width]);
    list.linear("t_embedder.mlp.0", width, TIMESTEP_FEATURES);
    list.linear("t_embedder.mlp.2", width, width);
    list.linear("y_embedder.mlp.0", width, geometry.pooled_width);
    list.linear("y_embedder.mlp.2", width, width);
    list.linear("context_embedder", width, geometry.context_width);
    for block in 0..geometry.depth {
        let dual = geometry.dual_attention.contains(&block);
        let last = block + 1 == geometry.depth;
        let image = format!("joint_blocks.{block}.x_block");
        let context = format!("joint_blocks.{block}.context_block");
        list.linear(&format!("{image}.adaLN_modulation.1"), if dual { 9 } else { 6 } * width, width);
        list.linear(&format!("{context}.adaLN_modulation.1"), if last { 2 } else { 6 } * width, width);
        list.mmdit_attention(&format!("{image}.attn"), geometry, true);
        if dual {
            list.mmdit_attention(&format!("{image}.attn2"), geometry, true);
        }
        // Nothing reads the context after the last block, so there it only gives keys, values and queries.
        list.mmdit_attention(&format!("{context}.attn"), geometry, !last);
        for stream in [Some(image), (!last).then_some(context)].into_iter().flatten() {
            list.linear(&format!("{stream}.mlp.fc1"), 4 * width, width);
            list.linear(&format!("{stream}.mlp.fc2"), width, 4 * width);
        }
    }
    list.linear("final_layer.adaLN_modulation.1", 2 * width, width);
    list.linear("final_layer.linear", geometry.patch * geometry.patch * geometry.channels, width);
    list.0
}

fn vae_encoder_names(shapes: Shapes<'_>) -> Result<Names, GeometryError> {
    let mut list = List::default();
    let [mut width, colours] = first_two(shapes, "conv_in.weight")?;
    list.convolution("conv_in", width, colours, 3);
    let levels = count(shapes, |level| format!("down.{level}.block.0.conv1.weight"));
    for level in 0..levels {
        for block in 0..count(shapes, |block| format!("down.{level}.block.{block}.conv1.weight")) {
            let name = format!("down.{level}.block.{block}");
            let [output, _] = first_two(shapes, &format!("{name}.conv1.weight"))?;
            list.residual(&name, output, width);
            width = output;
        }
        if level + 1 < levels {
            list.convolution(&format!("down.{level}.downsample.conv"), width, width, 3);
        }
    }
    list.vae_middle(width);
    list.norm("norm_out", width);
    let [moments, _] = first_two(shapes, "conv_out.weight")?;
    list.convolution("conv_out", moments, width, 3);
    Ok(list.0)
}

fn vae_decoder_names(shapes: Shapes<'_>) -> Result<Names, GeometryError> {
    let mut list = List::default();
    let [mut width, latents] = first_two(shapes, "conv_in.weight")?;
    list.convolution("conv_in", width, latents, 3);
    list.vae_middle(width);
    for level in (0..count(shapes, |level| format!("up.{level}.block.0.conv1.weight"))).rev() {
        for block in 0..count(shapes, |block| format!("up.{level}.block.{block}.conv1.weight")) {
            let name = format!("up.{level}.block.{block}");
            let [output, _] = first_two(shapes, &format!("{name}.conv1.weight"))?;
            list.residual(&name, output, width);
            width = output;
        }
        if level > 0 {
            list.convolution(&format!("up.{level}.upsample.conv"), width, width, 3);
        }
    }
    list.norm("norm_out", width);
    let [colours, _] = first_two(shapes, "conv_out.weight")?;
    list.convolution("conv_out", colours, width, 3);
    Ok(list.0)
}

fn clip_names(shapes: Shapes<'_>) -> Result<Names, GeometryError> {
    let mut list = List::default();
    let [vocabulary, width] = first_two(shapes, "text_model.embeddings.token_embedding.weight")?;
    let [positions, _] = first_two(shapes, "text_model.embeddings.position_embedding.weight")?;
    let [hidden, _] = first_two(shapes, "text_model.encoder.layers.0.mlp.fc1.weight")?;
    list.add("text_model.embeddings.token_embedding.weight", &[vocabulary, width]);
    list.add("text_model.embeddings.position_embedding.weight", &[positions, width]);
    for layer in 0..count(shapes, |layer| format!("text_model.encoder.layers.{layer}.mlp.fc1.weight")) {
        let layer = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{layer}.self_attn.{projection}"), width, width);
        }
        list.norm(&format!("{layer}.layer_norm1"), width);
        list.norm(&format!("{layer}.layer_norm2"), width);
        list.linear(&format!("{layer}.mlp.fc1"), hidden, width);
        list.linear(&format!("{layer}.mlp.fc2"), width, hidden);
    }
    list.norm("text_model.final_layer_norm", width);
    // CLIP-L's files come without a projection, which then is the identity.
    if let Some(shape) = shapes("text_projection.weight") {
        list.add("text_projection.weight", &[shape.first().copied().unwrap_or(width), width]);
    }
    Ok(list.0)
}

fn t5_names(shapes: Shapes<'_>) -> Result<Names, GeometryError> {
    let mut list = List::default();
    let [vocabulary, width] = first_two(shapes, "shared.weight")?;
    let [inner, _] = first_two(shapes, "encoder.block.0.layer.0.SelfAttention.q.weight")?;
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let [buckets, heads] = first_two(shapes, bias)?;
    let [hidden, _] = first_two(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
    list.add("shared.weight", &[vocabulary, width]);
    list.add(bias, &[buckets, heads]);
    for block in 0..count(shapes, |block| format!("encoder.block.{block}.layer.0.SelfAttention.q.weight")) {
        let block = format!("encoder.block.{block}");
        for projection in ["q", "k", "v"] {
            list.add(&format!("{block}.layer.0.SelfAttention.{projection}.weight"), &[inner, width]);
        }
        list.add(&format!("{block}.layer.0.SelfAttention.o.weight"), &[width, inner]);
        list.add(&format!("{block}.layer.0.layer_norm.weight"), &[width]);
        list.add(&format!("{block}.layer.1.DenseReluDense.wi_0.weight"), &[hidden, width]);
        list.add(&format!("{block}.layer.1.DenseReluDense.wi_1.weight"), &[hidden, width]);
        list.add(&format!("{block}.layer.1.DenseReluDense.wo.weight"), &[width, hidden]);
        list.add(&format!("{block}.layer.1.layer_norm.weight"), &[width]);
    }
    list.add("encoder.final_layer_norm.weight", &[width]);
    Ok(list.0)
}

/// The list that is being made, with a method for each group of tensors that recurs.
#[derive(Default)]
struct List(Names);

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn convolution(&mut self, name: &str, outputs: usize, inputs: usize, kernel: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs, kernel, kernel]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    fn mmdit_attention(&mut self, name: &str, geometry: &MmditGeometry, projected: bool) {
        let width = geometry.width;
        self.linear(&format!("{name}.qkv"), 3 * width, width);
        if geometry.qk_norm {
            self.add(&format!("{name}.ln_q.weight"), &[geometry.head_width()]);
            self.add(&format!("{name}.ln_k.weight"), &[geometry.head_width()]);
        }
        if projected {
            self.linear(&format!("{name}.proj"), width, width);
        }
    }

    fn residual(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.convolution(&format!("{name}.conv1"), outputs, inputs, 3);
        self.norm(&format!("{name}.norm2"), outputs);
        self.convolution(&format!("{name}.conv2"), outputs, outputs, 3);
        if outputs != inputs {
            self.convolution(&format!("{name}.nin_shortcut"), outputs, inputs, 1);
        }
    }

    fn vae_middle(&mut self, width: usize) {
        self.residual("mid.block_1", width, width);
        self.norm("mid.attn_1.norm", width);
        for projection in ["q", "k", "v", "proj_out"] {
            self.convolution(&format!("mid.attn_1.{projection}"), width, width, 1);
        }
        self.residual("mid.block_2", width, width);
    }
}

fn first_two(shapes: Shapes<'_>, name: &str) -> Result<[usize; 2], GeometryError> {
    let shape = shapes(name).ok_or_else(|| GeometryError::Missing { name: name.into() })?;
    match shape.as_slice() {
        &[first, second, ..] if first > 0 && second > 0 => Ok([first, second]),
        _ => Err(GeometryError::Shape {
            name: name.into(),
            shape,
            expected: "it should have 2 or more dimensions, none of them empty",
        }),
    }
}

fn count(shapes: Shapes<'_>, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|&index| shapes(&name(index)).is_some()).count()
}
