//! A training of sd-scripts becomes a pipeline that runs.

use crate::space::{TestSpace, repository};

const TRAINING: &str = r#"
MODEL=model
accelerate launch --num_processes 2 sd3_train_network.py --network_module networks.lora_sd3 --network_train_unet_only \
    --pretrained_model_name_or_path "$MODEL/sd3_tiny.safetensors" --clip_l "$MODEL/clip_l.safetensors" \
    --clip_g "$MODEL/clip_g.safetensors" --t5xxl "$MODEL/t5xxl.safetensors" --t5xxl_max_token_length 16 \
    --train_data_dir data --caption_extension .txt --resolution 64 --enable_bucket --bucket_reso_steps 16 \
    --min_bucket_reso 32 --max_bucket_reso 128 --max_train_steps 6 --learning_rate 1e-3 --sample_prompts prompts.txt \
    --save_every_n_epochs 1 --output_name tiny --logging_dir logs
"#;

#[test]
fn a_training_of_sd_scripts_becomes_a_pipeline_that_runs() {
    let space = TestSpace::demo();
    space.copy(&repository().join("tests/photos"), "data/2_photo", |name| {
        name.starts_with("wall-") || name.starts_with("tabby-")
    });
    space.write("train.sh", TRAINING);
    space.write("prompts.txt", "a cat --w 64 --h 64 --s 2 --l 2 --d 3\n");
    let import = ["import", "--script", "train.sh", "-o", "tiny.ron", "--t5-tokenizer", "model/t5_tokenizer.json"];
    space.call(&import).succeeds().says("wrote tiny.ron");
    // The tiny model has a vocabulary of its own; the real ones' is built in.
    let clip = r#"model.tokenizers=(clip: "model/clip_tokenizer.json", t5: "model/t5_tokenizer.json")"#;
    let run = ["run", "tiny.ron", "--set", clip, "--set", "device=Cpu"];
    space.call(&run).succeeds();
    // Four samples in twos are two steps an epoch.
    assert_eq!(space.files("out/tiny/lora").len(), 3);
    assert!(space.path("out/tiny/contact-sheet.png").exists());
}
