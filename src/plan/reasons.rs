//! Why a stage runs: its key against that of the last run, field by field, root cause first.

use super::{Examined, PlanError, Planner, StageResult, State, data};
use sd3pipe_cache::{Change, Digest, Key, Preimage, Store, diff};
use sd3pipe_stages::{
    captions::{Item, Items},
    stage::Stage,
};
use serde::Serialize;
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The stage that it happened to.
    pub stage: String,
    /// In a few words: `learning_rate 0.0001 → 0.00005`.
    pub what: String,
    /// Lines that show it: the old and the new caption.
    pub detail: Vec<String>,
}

/// What the last run knew.
pub struct Reasons<'r> {
    store: Option<&'r Store>,
    old: BTreeMap<String, (Key, Preimage)>,
    /// What happened to items between an old key and a new result: every stage that reads them asks.
    items: RefCell<BTreeMap<(Key, Digest), Changes>>,
}

/// What happened, each in a few words and with lines that show it.
type Changes = Vec<(String, Vec<String>)>;

impl<'r> Reasons<'r> {
    /// From the keys of the last run's stages.
    pub fn new(store: Option<&'r Store>, previous: &BTreeMap<String, Key>) -> Result<Self, PlanError> {
        let mut old = BTreeMap::new();
        for (name, key) in previous {
            if let Some(record) = store.map(|store| store.record(key)).transpose()?.flatten() {
                old.insert(name.clone(), (*key, record.preimage));
            }
        }
        Ok(Self { store, old, items: RefCell::default() })
    }

    /// What happened to the stage itself, apart from what it reads of other stages.
    pub fn direct(
        &self,
        planner: &Planner<'_>,
        examined: &[Option<Examined>],
        index: usize,
    ) -> Result<Vec<Cause>, PlanError> {
        let stage = &planner.resolved.stages[index];
        let Some(now) = &examined[index] else { return Ok(Vec::new()) };
        let cause = |what: String, detail| Cause { stage: stage.name.clone(), what, detail };
        if planner.is_forced(index) {
            return Ok(vec![cause("forced".to_owned(), Vec::new())]);
        }
        let Some((old_key, old)) = self.old.get(&stage.name) else {
            return Ok(vec![cause("never run before".to_owned(), Vec::new())]);
        };
        let mut causes = Vec::new();
        if let (Stage::Captions(_), Some(result)) = (&stage.stage, now.state.result()) {
            causes.extend(self.item_changes(old_key, result)?.into_iter().map(|(what, detail)| cause(what, detail)));
        }
        let start = planner.start(index)?;
        let describe = |change: &Change| match &start {
            Some(start) if change.path == "model.mmdit" => {
                Some(format!("init: starts from other weights, {}", start.origin))
            }
            _ => describe(change),
        };
        causes.extend(diff(old, &now.preimage).iter().filter_map(describe).map(|what| cause(what, Vec::new())));
        if causes.is_empty() && matches!(now.state, State::Run { .. }) && now.preimage.key() == *old_key {
            causes.push(cause("its result is not in the store any more".to_owned(), Vec::new()));
        }
        Ok(causes)
    }

    /// Everything that makes a stage run, from the first stage that it depends on to itself.
    pub fn roots(
        &self,
        planner: &Planner<'_>,
        examined: &[Option<Examined>],
        index: usize,
    ) -> Result<Vec<Cause>, PlanError> {
        let mut causes = Vec::new();
        for above in planner.ancestors(index) {
            let direct = self.direct(planner, examined, above)?;
            // A stage that was never run because none was: the stage that was asked for says it for all.
            causes.extend(direct.into_iter().filter(|cause| above == index || cause.what != "never run before"));
        }
        Ok(causes)
    }

    /// The preimage of a stage at the last run.
    pub fn old(&self, name: &str) -> Option<&Preimage> {
        self.old.get(name).map(|(_, preimage)| preimage)
    }

    fn item_changes(&self, old_key: &Key, result: &StageResult) -> Result<Changes, PlanError> {
        let between = (*old_key, result.digest);
        if let Some(known) = self.items.borrow().get(&between) {
            return Ok(known.clone());
        }
        let changes = self.compare(old_key, result)?;
        self.items.borrow_mut().insert(between, changes.clone());
        Ok(changes)
    }

    fn compare(&self, old_key: &Key, result: &StageResult) -> Result<Changes, PlanError> {
        let Some(store) = self.store else { return Ok(Vec::new()) };
        let Some(old) = items_of(store, old_key)?.filter(|old| old.digest != result.digest) else {
            return Ok(Vec::new());
        };
        let Ok(old) = old.items(Some(store)) else { return Ok(Vec::new()) };
        Ok(compare_items(&old, &result.items(Some(store))?))
    }
}

/// The items that a captions stage had by a key, if the store has them.
fn items_of(store: &Store, key: &Key) -> Result<Option<StageResult>, PlanError> {
    let outputs = store.outputs(key)?.unwrap_or_default();
    Ok(outputs.iter().find(|output| output.role == "items").map(|output| StageResult::stored(output.digest)))
}

/// Something that two runs of a stage read differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In a few words: `caption of a.png changed`.
    pub what: String,
    /// Lines that show it.
    pub detail: Vec<String>,
}

/// What two keys of a stage differ in beside its parameters and the results of other stages, as far as the store still knows.
///
/// # Errors
/// A store that can't be read.
pub fn differences(store: &Store, old: &Key, new: &Key) -> Result<Vec<Difference>, PlanError> {
    let mut found = Vec::new();
    if let (Some(old), Some(new)) = (items_of(store, old)?, items_of(store, new)?)
        && let (Ok(old), Ok(new)) = (old.items(Some(store)), new.items(Some(store)))
    {
        found.extend(compare_items(&old, &new).into_iter().map(|(what, detail)| Difference { what, detail }));
    }
    if let (Some(old), Some(new)) = (store.record(old)?, store.record(new)?) {
        let changes = diff(&old.preimage, &new.preimage).into_iter();
        let changes = changes.filter(|change| !change.path.starts_with("parameters."));
        found
            .extend(changes.filter_map(|change| describe(&change)).map(|what| Difference { what, detail: Vec::new() }));
    }
    Ok(found)
}

/// What happened between two lists of items, an item at a time.
fn compare_items<'i>(old: &'i Items, new: &'i Items) -> Changes {
    let (old, new) = (data::by_id(old), data::by_id(new));
    // By their images, the first of each: what is gone, and what is there only now.
    let only = |of: &BTreeMap<&'i str, &'i Item>, not: &BTreeMap<&str, &Item>| -> HashMap<&'i str, &'i str> {
        let only = of.iter().rev().filter(|(id, _)| !not.contains_key(*id));
        only.map(|(id, item)| (item.image.as_str(), *id)).collect()
    };
    let (gone, come) = (only(&old, &new), only(&new, &old));
    let mut changes = Vec::new();
    for (id, now) in &new {
        let Some(before) = old.get(id) else {
            let change = match gone.get(now.image.as_str()) {
                Some(old_id) => format!("{old_id} was renamed to {id}"),
                None => format!("{id} was added"),
            };
            changes.push((change, Vec::new()));
            continue;
        };
        if before.image != now.image {
            changes.push((format!("image {id} changed"), Vec::new()));
        }
        if before.texts != now.texts {
            let line = |sign: &str, texts: &[String]| texts.first().map(|text| format!("{sign} {text}"));
            let detail = [line("-", &before.texts), line("+", &now.texts)].into_iter().flatten().collect();
            changes.push((format!("caption of {id} changed"), detail));
        }
        if before.repeats != now.repeats {
            changes.push((format!("repeats of {id} {} → {}", before.repeats, now.repeats), Vec::new()));
        }
        if before.weight != now.weight {
            changes.push((format!("weight of {id} {} → {}", before.weight, now.weight), Vec::new()));
        }
        if before.mask != now.mask {
            changes.push((format!("mask of {id} changed"), Vec::new()));
        }
        let switches = [
            (before.regularisation, now.regularisation, "a regularisation image"),
            (before.flip, now.flip, "trained mirrored too"),
        ];
        for (before, now, what) in switches {
            if before != now {
                let text = if now { format!("{id} is {what} now") } else { format!("{id} is not {what} any more") };
                changes.push((text, Vec::new()));
            }
        }
    }
    for (id, before) in &old {
        if !new.contains_key(id) && !come.contains_key(before.image.as_str()) {
            changes.push((format!("{id} was removed"), Vec::new()));
        }
    }
    changes
}

/// A changed field in words; nothing for fields that another stage's changes explain.
fn describe(change: &Change) -> Option<String> {
    let (old, new) = (
        change.old.as_ref().map_or("nothing".to_owned(), show),
        change.new.as_ref().map_or("nothing".to_owned(), show),
    );
    let path = change.path.as_str();
    if let Some(field) = path.strip_prefix("parameters.") {
        return Some(format!("{field} {old} → {new}"));
    }
    if let Some(component) = path.strip_prefix("model.") {
        return Some(match (&change.old, &change.new) {
            (None, _) => format!("{component} of the model is read now"),
            (_, None) => format!("{component} of the model is not read any more"),
            (Some(Value::Null), _) => format!("the model has a {component} now"),
            (_, Some(Value::Null)) => format!("the model has no {component} any more"),
            _ => format!("{component} of the model changed"),
        });
    }
    match path {
        "device" => Some(format!("device {old} → {new}")),
        "pipeline" => Some(format!("the pipeline's name {old} → {new}")),
        "revision" => Some(format!("this sd3pipe computes it anew (revision {old} → {new})")),
        _ => None,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sd3pipe_stages::captions::items::Mask;

    fn item(id: &str, image: &str, text: &str) -> Item {
        Item {
            id: id.to_owned(),
            image: image.to_owned(),
            width: 64,
            height: 64,
            texts: vec![text.to_owned()],
            ..Item::default()
        }
    }

    fn changes(old: &[Item], new: &[Item]) -> Vec<String> {
        compare_items(&old.to_vec().into(), &new.to_vec().into()).into_iter().map(|(what, _)| what).collect()
    }

    #[test]
    fn each_kind_of_edit_has_its_own_words() {
        let old = [item("a.png", "1", "a"), item("b.png", "2", "b")];
        assert!(changes(&old, &old).is_empty());
        assert_eq!(changes(&old, &[item("a.png", "1", "x"), item("b.png", "2", "b")]), ["caption of a.png changed"]);
        assert_eq!(changes(&old, &[item("a.png", "9", "a"), item("b.png", "2", "b")]), ["image a.png changed"]);
        assert_eq!(changes(&old, &[item("a.png", "1", "a"), item("c.png", "2", "b")]), ["b.png was renamed to c.png"]);
        assert_eq!(changes(&old, &old[..1]), ["b.png was removed"]);
        let special = Item { weight: 0.5, flip: true, mask: Some(Mask::Alpha), ..item("a.png", "1", "a") };
        let words = ["weight of a.png 1 → 0.5", "mask of a.png changed", "a.png is trained mirrored too now"];
        assert_eq!(changes(&old[..1], std::slice::from_ref(&special)), words);
        assert_eq!(changes(&[special], &old[..1])[2], "a.png is not trained mirrored too any more");
        assert_eq!(changes(&old[..1], &old), ["b.png was added"]);
    }
}
