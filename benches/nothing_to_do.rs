//! What a run with nothing to do costs beside a bare sorted walk and stat of the same files, for 10,000 images with captions.
//!
//!     cargo bench --bench nothing_to_do
//!
//! Each side is a process of its own, started in turn; medians of eleven. The third figure is a run after one
//! caption was changed to a text that is known, so that finding out is timed and not the encoder.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const IMAGES: usize = 10_000;
const ROUNDS: usize = 11;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(index) = arguments.iter().position(|argument| argument == "--walk") {
        println!("{}", bare_walk(Path::new(&arguments[index + 1])));
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    make(folder.path());
    let sd3pipe = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sd3pipe"));
        command.args(arguments).current_dir(folder.path()).env_remove("SD3PIPE_STORE");
        command
    };
    let walk = || {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--walk", folder.path().join("photos").to_str().expect("a path")]);
        command
    };
    let run = ["run", "bench.ron"];
    let first = time(&mut sd3pipe(&run));
    println!("first run, everything encoded: {first:.2?}");
    // Files as young as these are read again once: their times say nothing yet.
    std::thread::sleep(Duration::from_secs(3));
    time(&mut sd3pipe(&run));

    let (mut bare, mut idle, mut edited) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(time(&mut walk()));
        idle.push(time(&mut sd3pipe(&run)));
        // The caption's new text is known already: what is timed is finding out, and not the encoder.
        let texts = ["a picture in grey", "a picture in colour"];
        fs::write(folder.path().join("photos/00042.txt"), texts[round % 2]).expect("written");
        edited.push(time(&mut sd3pipe(&run)));
    }
    let [bare, idle, edited] = [bare, idle, edited].map(median);
    println!("bare sorted walk and stat: {bare:.1?}");
    println!("run with nothing to do:    {idle:.1?} = {:.2} x", idle.as_secs_f64() / bare.as_secs_f64());
    println!("run after one caption:     {edited:.1?} = {:.2} x", edited.as_secs_f64() / bare.as_secs_f64());
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("it starts");
    let elapsed = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    elapsed
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn bare_walk(folder: &Path) -> u64 {
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name();
    walk.into_iter().filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn make(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(folder.join("photos")).expect("a folder");
    for index in 0..IMAGES {
        let pixel = [(index % 256) as u8, (index / 256) as u8, 7];
        let image = image::RgbImage::from_pixel(64, 64, image::Rgb(pixel));
        image.save(folder.join(format!("photos/{index:05}.png"))).expect("written");
        // Few distinct texts: encoding them is not what is measured.
        let text = ["a picture in grey", "a picture in colour"][index % 2];
        fs::write(folder.join(format!("photos/{index:05}.txt")), text).expect("written");
    }
    let model = root.join("tests/model");
    let path = |name: &str| format!("{:?}", model.join(name));
    let pipeline = format!(
        "Pipeline(name: \"bench\", device: Cpu, model: (checkpoint: {}, clip_l: {}, clip_g: {}, t5xxl: {}, tokenizers: (clip: {}, t5: {})), stages: {{
            \"captions\": Captions(data: [(path: \"photos\")]),
            \"text\": EncodeText(t5_tokens: 16, precision: F32),
            \"latents\": EncodeImages(resolution: 64, buckets: None),
        }})",
        path("sd3_tiny.safetensors"),
        path("clip_l.safetensors"),
        path("clip_g.safetensors"),
        path("t5xxl.safetensors"),
        path("clip_tokenizer.json"),
        path("t5_tokenizer.json"),
    );
    fs::write(folder.join("bench.ron"), pipeline).expect("written");
}
