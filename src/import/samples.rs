//! The prompts of a training, as stages that draw them.

use super::{
    arguments::read_table,
    reader::Reader,
    text::{Bracket, number, quoted},
};
use serde_json::{Map, Value};
use std::fs;

/// How a prompt is drawn.
#[derive(Clone, Debug, PartialEq)]
struct Drawing {
    negative: String,
    size: (u32, u32),
    steps: u32,
    cfg: f64,
    seed: u64,
}

/// The stages that draw the prompts, those alike in one stage.
pub fn stages(reader: &mut Reader<'_>) -> Vec<(String, Bracket)> {
    let Some(file) = reader.text("sample_prompts") else {
        reader.remark(
            "No pictures were drawn. With \"sample\": Sample(prompts: [\"…\"], cfg: 4.5) among the stages each checkpoint is, on one sheet."
                .to_owned(),
        );
        return Vec::new();
    };
    let prompts = match read(reader, &file) {
        Ok(prompts) => prompts,
        Err(message) => {
            reader.refuse(
                message,
                "import where the file is (--folder says where paths start from), or leave --sample_prompts out",
            );
            return Vec::new();
        }
    };
    let mut sorted: Vec<(Drawing, Vec<String>)> = Vec::new();
    for (prompt, drawing) in prompts {
        match sorted.iter_mut().find(|(known, _)| *known == drawing) {
            Some((_, prompts)) if prompts.contains(&prompt) => {}
            Some((_, prompts)) => prompts.push(prompt),
            None => sorted.push((drawing, vec![prompt])),
        }
    }
    let tokens = super::t5_tokens(reader).0;
    let precision = super::training::precision(reader);
    let stage = |(index, (drawing, prompts)): (usize, (Drawing, Vec<String>))| {
        let mut stage = Bracket::new("Sample");
        let prompts: Vec<String> = prompts.iter().map(|prompt| quoted(prompt)).collect();
        stage.field("prompts", &format!("[{}]", prompts.join(", "))).from("--sample_prompts");
        if !drawing.negative.is_empty() {
            stage.field("negative", &quoted(&drawing.negative)).from("--n");
        }
        stage.field("seeds", &format!("[{}]", drawing.seed)).from("--d; 1 where there is none");
        stage
            .field("size", &format!("({}, {})", drawing.size.0, drawing.size.1))
            .from("--w and --h; sd-scripts' default is 512");
        stage.field("steps", &drawing.steps).from("--s; sd-scripts' default is 30");
        stage
            .field("cfg", &number(drawing.cfg))
            .from("--l; sd-scripts' default is 7.5, and fine-tuned SD3 does best at 4 to 5");
        stage.field("t5_tokens", &tokens);
        if precision == "F32" {
            stage.field("precision", &"F32").from("without --mixed_precision");
        }
        let name = if index == 0 { "sample".to_owned() } else { format!("sample-{}", index + 1) };
        (name, stage)
    };
    sorted.into_iter().enumerate().map(stage).collect()
}

/// Reads the prompts of a file: lines of text, or tables of TOML or JSON.
fn read(reader: &Reader<'_>, file: &str) -> Result<Vec<(String, Drawing)>, String> {
    let path = reader.arguments.folder.join(file);
    let list: Vec<Map<String, Value>> = if file.ends_with(".toml") || file.ends_with(".json") {
        let tables = read_table(&path, "--sample_prompts").map_err(|refusal| refusal.message)?;
        let own = tables.get("prompt").cloned().unwrap_or(tables);
        let shared = own.as_object().cloned().unwrap_or_default();
        let items = own.get("subset").unwrap_or(&own).as_array().cloned().unwrap_or_default();
        let item = |item: Value| match item {
            Value::String(line) => of_line(&line),
            Value::Object(own) => shared.clone().into_iter().chain(own).collect(),
            _ => Map::new(),
        };
        items.into_iter().map(item).collect()
    } else {
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("--sample_prompts: cannot read {}: {error}", path.display()))?;
        text.lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|line| of_line(line.trim()))
            .collect()
    };
    if list.is_empty() {
        return Err(format!("--sample_prompts: there is no prompt in {}", path.display()));
    }
    let drawn = |map: Map<String, Value>| {
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let whole = |name: &str, default: u64| map.get(name).and_then(Value::as_u64).unwrap_or(default);
        // Sides of other lengths break SD3's patches.
        let side = |name: &str| (whole(name, 512).min(8192) / 16 * 16).max(64) as u32;
        let drawing = Drawing {
            negative: text("negative_prompt"),
            size: (side("width"), side("height")),
            steps: whole("sample_steps", 30).clamp(1, 1000) as u32,
            cfg: map.get("scale").and_then(Value::as_f64).unwrap_or(7.5),
            seed: whole("seed", 1),
        };
        (text("prompt"), drawing)
    };
    Ok(list.into_iter().map(drawn).collect())
}

/// `a lighthouse --w 1024 --h 1024 --d 1 --s 28 --l 4.5 --n blurred` as the table that it stands for.
fn of_line(line: &str) -> Map<String, Value> {
    let mut pieces = line.split(" --");
    let mut map = Map::new();
    map.insert("prompt".to_owned(), pieces.next().unwrap_or_default().into());
    for piece in pieces {
        let (name, value) = piece.split_once(' ').unwrap_or((piece, ""));
        let whole = || value.trim().parse::<u64>().ok().map(Value::from);
        let (key, value) = match name.to_lowercase().as_str() {
            "w" => ("width", whole()),
            "h" => ("height", whole()),
            "d" => ("seed", whole()),
            "s" => ("sample_steps", whole()),
            "l" => ("scale", value.trim().parse::<f64>().ok().map(Value::from)),
            "n" => ("negative_prompt", Some(value.into())),
            _ => continue,
        };
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    }
    map
}
