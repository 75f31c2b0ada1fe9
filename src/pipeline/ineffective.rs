//! Options of trainers for earlier models that do nothing on SD3: who writes one is told why, and not just that it's unknown.
//!
//! sd-scripts takes all of these for SD3 and ignores them (`sd3_train.py`, `sd3_train_utils.py`).

/// Why a field would have no effect on SD3, if it is known for that.
pub fn reason(field: &str) -> Option<&'static str> {
    const SNR: &str = "it reweighs the loss by the noise schedule of SD1 and SDXL, and SD3's flow has none: \
        which levels count is said by `density`, `weighting` and `shift`";
    const PREDICTION: &str = "SD3 always predicts the velocity of a flow: what that is compared as is said by `target`";
    const NOISE: &str = "it makes up for a noise schedule that never comes to pure noise, and SD3's flow does: \
        levels near it are drawn more often with a larger `shift`";
    const INPUT_NOISE: &str = "sd-scripts never applies it to SD3: a flow's target holds the very noise of its input";
    const MASK: &str = "SD3 was trained without attention masks, and its MMDiT reads none";
    const ATTENTION: &str = "there is one attention here, the fastest for the device";
    const LENGTH: &str = "CLIP reads 77 tokens: how many T5 reads is said by `t5_tokens`";
    const ENCODERS: &str =
        "text encoders are read from the model's files, and written with Export(text_encoders: true)";
    const TABLE: [(&str, &[&str]); 10] = [
        (SNR, &["debiased_estimation_loss", "min_snr_gamma", "snr_gamma"]),
        (
            PREDICTION,
            &["prediction_type", "scale_v_pred_loss_like_noise_pred", "v2", "v_parameterization", "v_pred_like_loss"],
        ),
        (
            NOISE,
            &[
                "adaptive_noise_scale",
                "multires_noise_discount",
                "multires_noise_iterations",
                "noise_offset",
                "noise_offset_random_strength",
                "noise_offset_type",
                "zero_terminal_snr",
            ],
        ),
        ("SD3 was made with the last layer but one of both CLIPs, and no other will do", &["clip_skip"]),
        (INPUT_NOISE, &["ip_noise_gamma", "ip_noise_gamma_random_strength"]),
        (LENGTH, &["max_token_length"]),
        ("brackets and weights in captions are plain text to SD3's encoders", &["weighted_captions"]),
        (MASK, &["apply_lg_attn_mask", "apply_t5_attn_mask"]),
        (ATTENTION, &["mem_eff_attn", "sdpa", "xformers"]),
        (ENCODERS, &["save_clip", "save_t5xxl", "t5xxl_device", "t5xxl_dtype"]),
    ];
    TABLE.iter().find(|(_, names)| names.contains(&field)).map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sd3pipe_stages::stage::Stage;

    /// A field that came to do something would otherwise be refused still in its stage's neighbours.
    #[test]
    fn no_stage_has_a_field_that_is_said_to_do_nothing() {
        for stage in
            ["Captions(data: [])", "EncodeText()", "EncodeImages()", "Train()", "Export()", "Sample(prompts: [])"]
        {
            let stage: Stage = crate::pipeline::options().from_str(stage).unwrap();
            let fields = serde_json::to_value(&stage).unwrap();
            let fields = fields.as_object().unwrap().values().next().unwrap().as_object().unwrap();
            assert!(fields.keys().all(|field| reason(field).is_none()), "{:?}", stage.kind());
        }
        assert!(reason("min_snr_gamma").unwrap().contains("`density`"));
    }
}
