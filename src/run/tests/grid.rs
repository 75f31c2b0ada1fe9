//! A grid of experiments: its points share what is equal, and each has results of its own.

use super::*;
use crate::{pipeline::Diagnostics, run::Comparison};

const GRID: &str = "grid={\"train.learning_rate\": [1e-4, 5e-5], \"train.seed\": [1, 2]}";

fn names(resolved: &Resolved) -> Vec<&str> {
    resolved.stages.iter().map(|stage| stage.name.as_str()).collect()
}

fn reads<'r>(resolved: &'r Resolved, name: &str) -> Vec<&'r str> {
    let stage = &resolved.stages[resolved.index(name).unwrap()];
    stage.upstream.iter().map(|upstream| resolved.stages[upstream.stage].name.as_str()).collect()
}

#[test]
fn stages_are_there_once_for_each_choice_that_they_depend_on() {
    let space = Space::new();
    let resolved = space.resolve(&["grid={\"train.learning_rate\": [1e-4, 5e-5], \"sample.cfg\": [1.0, 4.5]}"]);
    let expected = [
        "captions",
        "text",
        "latents",
        "train@learning_rate=1e-4",
        "train@learning_rate=5e-5",
        "export@learning_rate=1e-4",
        "export@learning_rate=5e-5",
        "sample@learning_rate=1e-4,cfg=1.0",
        "sample@learning_rate=1e-4,cfg=4.5",
        "sample@learning_rate=5e-5,cfg=1.0",
        "sample@learning_rate=5e-5,cfg=4.5",
    ];
    assert_eq!(names(&resolved), expected);
    assert_eq!(reads(&resolved, "train@learning_rate=5e-5"), ["text", "latents"]);
    assert_eq!(reads(&resolved, "sample@learning_rate=5e-5,cfg=1.0"), ["export@learning_rate=5e-5"]);
}

#[test]
fn a_field_that_names_a_stage_can_be_varied_too() {
    let space = Space::new();
    let text = fs::read_to_string(space.path("p.ron")).unwrap();
    let text = text.replace("\"latents\":", "\"short\": EncodeText(t5_tokens: 16),\n\"latents\":");
    fs::write(space.path("p.ron"), text).unwrap();
    let resolved = space.resolve(&["grid={\"train.text\": [\"text\", \"short\"], \"short.precision\": [F32, Bf16]}"]);
    // The precision of the one makes no other training of those that read the other.
    let trainings: Vec<_> = names(&resolved).into_iter().filter(|name| name.starts_with("train")).collect();
    assert_eq!(trainings, ["train@text=text", "train@text=short,precision=F32", "train@text=short,precision=Bf16"]);
    assert_eq!(reads(&resolved, trainings[2]), ["short@precision=Bf16", "latents"]);
}

#[test]
fn what_points_share_is_carried_out_once() {
    let space = Space::new();
    let lines = space.executed(&[GRID]);
    // The untrained model draws once for all of them.
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!([count("text"), count("latents"), count("train@"), count("sample@")], [4, 3, 4 * 2, 4 * 3 + 1]);
    assert!(space.executed(&[GRID]).is_empty());
    // A point more, and nothing else; and without the grid nothing but what no point had.
    let wider = GRID.replace("5e-5", "5e-5, 1e-5");
    assert!(space.executed(&[&wider]).iter().all(|line| line.contains("@learning_rate=1e-5,")));
    assert!(space.executed(&["train.learning_rate=5e-5", "train.seed=2"]).is_empty());
}

#[test]
fn each_point_has_a_folder_and_a_row() {
    let space = Space::new();
    let (journal, result) = space.run(&[GRID], Options::default());
    result.unwrap();
    for point in ["learning_rate=1e-4,seed=1", "learning_rate=5e-5,seed=2"] {
        let folder = space.path("out/keys").join(point);
        assert!(folder.join("contact-sheet.png").exists() || folder.join("sheet.png").exists(), "{point}");
        assert!(folder.join("checkpoints/keys-epoch-0002.safetensors").exists(), "{point}");
    }
    let (resolved, store) = (space.resolve(&[GRID]), space.store());
    let comparison = Comparison::of(&resolved, &journal, &store).unwrap().unwrap();
    let points: Vec<&str> = comparison.points.iter().map(|point| point.point.as_str()).collect();
    let expected = [
        "learning_rate=1e-4,seed=1",
        "learning_rate=1e-4,seed=2",
        "learning_rate=5e-5,seed=1",
        "learning_rate=5e-5,seed=2",
    ];
    assert_eq!(points, expected);
    assert_eq!(comparison.points[2].training, "train@learning_rate=5e-5,seed=1");
    assert_eq!(comparison.points[2].epochs[1].trained, Some((5e-5 + 1.0) / 2.0));
    assert_eq!(comparison.points[2].folder.as_deref(), Some(Path::new("out/keys/learning_rate=5e-5,seed=1")));
    let path = comparison.write(&resolved).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(json["points"][3]["epochs"][0]["epoch"], 1);
    let plain = space.resolve(&[]);
    assert!(Comparison::of(&plain, &journal, &store).unwrap().is_none(), "there is no grid");
}

#[test]
fn a_resolved_grid_reads_as_the_same_pipeline() {
    let space = Space::new();
    let resolved = space.resolve(&[GRID]);
    fs::write(space.path("p.ron"), resolved.to_ron().unwrap()).unwrap();
    let again = space.resolve(&[]);
    assert_eq!(names(&again), names(&resolved));
    assert_eq!(again.pipeline, resolved.pipeline);
}

/// What is wrong, each with the text that it points at.
fn faults(space: &Space, settings: &[&str]) -> Vec<(String, String)> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let Diagnostics { sources, list } = pipeline::load(&space.path("p.ron"), &settings).unwrap_err();
    let text = |place: pipeline::Place| sources.get(place.source).text[place.range].to_owned();
    list.into_iter().map(|fault| (fault.message, fault.place.map(text).unwrap_or_default())).collect()
}

#[test]
fn what_is_wrong_with_a_grid_is_shown_where_it_stands() {
    let cases = [
        ("{\"trian.seed\": [1]}", "there is no stage `trian`", "\"trian.seed\""),
        ("{\"train\": [1]}", "`train` names no field", "\"train\""),
        ("{\"model.vae\": [1]}", "fields of stages, and `model`", "\"model.vae\""),
        ("{\"train.sed\": [1, 2]}", "unknown field `sed` in `Train`", "sed"),
        ("{\"train.seed\": [1, \"two\"]}", "`seed`: Expected integer", "\"two\""),
        ("{\"train.epochs\": [0, 2]}", "`epochs`: 0 trains nothing", "0"),
        ("{\"train.seed.low\": [1]}", "what stands before", "\"train.seed.low\""),
        ("{\"train.seed\": []}", "`train.seed` has no value to try", "[]"),
        ("{\"train.seed\": 3}", "`train.seed` has no list of values", "3"),
        ("{\"train.seed\": [3, 3]}", "`3` is there twice", "3"),
        ("[1]", "`grid` is not a list of fields", "[1]"),
        ("{\"train.loss\": [L1], \"train.loss.delta\": [1.0]}", "are of one another", "\"train.loss.delta\""),
        ("{\"captions.data\": [[(path: \"photos\")], [(path: \"fotos\")]]}", "there is no folder `fotos`", "\"fotos\""),
    ];
    let space = Space::new();
    let text = fs::read_to_string(space.path("p.ron")).unwrap().replace("Train(", "Train(seed: 7, ");
    for (grid, message, place) in cases {
        fs::write(space.path("p.ron"), text.replace("stages: {", &format!("grid: {grid}, stages: {{"))).unwrap();
        let found = faults(&space, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0.contains(message) && found[0].1 == place, "{grid}: {found:?}");
    }
}

#[test]
fn what_is_wrong_at_every_point_is_told_once_and_so_is_a_grid_too_large() {
    let space = Space::new();
    let found = faults(&space, &[GRID, "train.epochs=0"]);
    assert!(found.len() == 1 && found[0].0.contains("0 trains nothing"), "{found:?}");
    let axis = |field: &str| format!("\"train.{field}\": {:?}", (1..20).collect::<Vec<_>>());
    let large = format!("grid={{{}, {}}}", axis("seed"), axis("epochs"));
    assert!(faults(&space, &[&large])[0].0.contains("more than 256 points"));
}

#[test]
fn a_setting_that_the_grid_overrules_is_refused() {
    let space = Space::new();
    let found = faults(&space, &[GRID, "train.seed=9"]);
    assert!(found[0].0.contains("`--set train.seed=9` has no effect"), "{found:?}");
    assert_eq!(space.resolve(&[GRID, "train.epochs=1"]).stages.len(), 3 + 3 * 4);
}
