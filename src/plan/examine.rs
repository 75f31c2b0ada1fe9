//! One stage after another: its key, whether the store has its result, and what is missing if not.

use super::{
    Data, Examined, PlanError, StageResult, Start, State, model,
    shared::{Far, Shared},
};
use crate::pipeline::{Resolved, ResolvedStage};
use sd3pipe_cache::{Digest, Key, Output, Preimage, Store};
use sd3pipe_stages::{
    action::{Artifact, Entry},
    captions::{Items, scan::Scan},
    checkpoint::Component,
    error::StageError,
    export::{
        self, ExportJob,
        job::Provenance,
        parameters::{Epochs, Export, Weights},
    },
    facts::Facts,
    images::ImagesJob,
    job::Job,
    sample::{self, SampleJob},
    stage::{Kind, Stage},
    text::TextJob,
    train::{
        TrainJob,
        validation::{Report, VALIDATION, best},
    },
};
use serde_json::{Map, Value};
use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

/// Examines the stages of one pipeline against one store.
pub struct Planner<'p> {
    /// The pipeline.
    pub resolved: &'p Resolved,
    pub(super) store: Option<&'p Store>,
    /// The stages to do anew whatever the store has.
    forced: BTreeSet<usize>,
    pub(super) facts: OnceCell<Facts>,
    data: BTreeMap<usize, Data>,
    /// What lies in the folders of captions stages whose data is yet to be read.
    pub(super) scans: BTreeMap<usize, Scan>,
    /// Where trainings start that were looked at, when that is not the model.
    pub(super) starts: RefCell<BTreeMap<usize, Option<Start>>>,
    /// Objects that were found lost: records that promise them count for nothing.
    lost: BTreeSet<Digest>,
    /// The keys of the last run's stages, by name: where to look for what was read then.
    previous: BTreeMap<String, Key>,
    /// Where results may come from and go to beside the store.
    pub(super) shared: Option<Shared<'p>>,
    pub(super) far: RefCell<Far>,
}

impl<'p> Planner<'p> {
    /// A planner. `previous` are the keys of the last run's stages.
    pub fn new(
        resolved: &'p Resolved,
        store: Option<&'p Store>,
        forced: BTreeSet<usize>,
        previous: BTreeMap<String, Key>,
    ) -> Self {
        let (facts, data, scans, starts, lost, far) = Default::default();
        Self { resolved, store, forced, facts, data, scans, starts, lost, previous, shared: None, far }
    }

    /// What is known of the model's files; they are looked at once.
    pub fn facts(&self) -> Result<&Facts, PlanError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let facts = model::facts(self.resolved, self.store)?;
        Ok(self.facts.get_or_init(|| facts))
    }

    /// The data of a captions stage; it is walked once.
    pub fn data(&mut self, index: usize) -> Result<&Data, PlanError> {
        if !self.data.contains_key(&index)
            && let ResolvedStage { name, stage: Stage::Captions(captions), .. } = &self.resolved.stages[index]
        {
            let scan = self.scan(index, captions)?;
            let data = Data::of(scan, captions, self.resolved, self.store, self.previous.get(name), &self.lost)?;
            self.data.insert(index, data);
        }
        self.data.get(&index).ok_or_else(|| self.missing_input(index))
    }

    /// The data of every captions stage that was looked at.
    pub fn all_data(&self) -> impl Iterator<Item = (usize, &Data)> {
        self.data.iter().map(|(index, data)| (*index, data))
    }

    /// Whether the data and the model, looked at once more, are what they were by content.
    pub fn inputs_are_equal(&self) -> Result<bool, PlanError> {
        for (index, before) in &self.data {
            if let Stage::Captions(captions) = &self.resolved.stages[*index].stage {
                let now = Data::read(captions, self.resolved, self.store, None, &self.lost)?;
                if now.preimage.key() != before.preimage.key() {
                    return Ok(false);
                }
            }
        }
        if !self.starts_are_equal()? {
            return Ok(false);
        }
        let digests = |facts: &Facts| {
            let tokenizers =
                facts.t5_tokenizer.iter().chain([&facts.clip_tokenizer]).map(|tokenizer| tokenizer.identity);
            let weights = facts.located().map(|located| located.digest);
            weights.chain(tokenizers).collect::<Vec<_>>()
        };
        Ok(digests(self.facts()?) == digests(&model::facts(self.resolved, self.store)?))
    }

    /// Whether a stage is done anew whatever the store has.
    pub fn is_forced(&self, index: usize) -> bool {
        self.forced.contains(&index)
    }

    /// Takes a stage off those that are done anew: it was.
    pub fn unforce(&mut self, index: usize) {
        self.forced.remove(&index);
    }

    /// Takes note that an object is lost, so that whatever needs it counts as not made.
    pub fn lose(&mut self, digest: Digest) {
        self.lost.insert(digest);
        self.data.clear();
    }

    /// Looks at the data anew: records of it were dropped.
    pub fn refresh(&mut self) {
        self.data.clear();
    }

    fn whole(&self, outputs: Option<Vec<Output>>) -> Option<Vec<Output>> {
        outputs.filter(|outputs| !outputs.iter().any(|output| self.lost.contains(&output.digest)))
    }

    fn missing_input(&self, index: usize) -> PlanError {
        PlanError::File {
            path: self.resolved.stages[index].name.clone().into(),
            source: std::io::ErrorKind::NotFound.into(),
        }
    }

    /// Examines a stage, given the results of those before it as far as they are known.
    pub fn examine(&mut self, index: usize, results: &[Option<StageResult>]) -> Result<Examined, PlanError> {
        let resolved = self.resolved;
        let stage = &resolved.stages[index];
        if let Stage::Captions(_) = stage.stage {
            let data = self.data(index)?;
            let (preimage, result) = (data.preimage.clone(), data.result.clone());
            let state =
                if data.kept { State::Kept { result } } else { State::Assembled { result, actions: data.images } };
            return Ok(Examined { preimage, state });
        }
        let preimage = self.preimage(stage, index, results)?;
        let on: Vec<usize> =
            stage.upstream.iter().map(|upstream| upstream.stage).filter(|above| results[*above].is_none()).collect();
        if !on.is_empty() {
            return Ok(Examined { preimage, state: State::Waiting { on } });
        }
        let above = || stage.upstream.iter().filter_map(|above| Some((above.stage, results[above.stage].as_ref()?)));
        // Nobody has what is made of results that are only foreseen.
        let asks = !self.is_forced(index) && above().all(|(_, result)| !result.foreseen);
        if let Some(store) = self.store.filter(|_| !self.is_forced(index)) {
            let kept = self.kept(store, &stage.name, &preimage.key())?.map(StageResult::stored);
            let far = || if asks { self.far_result(index, &preimage.key()) } else { Ok(None) };
            if let Some(result) = kept.map_or_else(far, |kept| Ok(Some(kept)))? {
                return Ok(Examined { preimage, state: State::Kept { result } });
            }
        }
        above().try_for_each(|(above, result)| self.land(above, result, None))?;
        let job = self.job(stage, index, results)?;
        if let Some(store) = self.store {
            // Before they are looked up: what is found from here on stays.
            store.rely(&preimage.key(), &job.keys()?)?;
        }
        if asks {
            self.fetch(index, job.keys()?)?;
        }
        let outputs = if self.is_forced(index) { vec![None; job.actions().len()] } else { self.outputs(&job)? };
        let missing: Vec<usize> = (0..outputs.len()).filter(|index| outputs[*index].is_none()).collect();
        if let Job::Images(job) = &job {
            self.are_here(index, missing.iter().map(|index| job.pictures[*index].path.as_path()))?;
        }
        let state = if missing.is_empty() {
            let outputs: Vec<_> = outputs.into_iter().flatten().collect();
            State::Assembled {
                result: StageResult::in_memory(job.artifact(&outputs).to_bytes()?),
                actions: outputs.len(),
            }
        } else {
            State::Run { job: Box::new(job), missing }
        };
        Ok(Examined { preimage, state })
    }

    /// Refuses pictures that a stage would have to read and that are elsewhere.
    fn are_here<'a>(&self, index: usize, pictures: impl Iterator<Item = &'a Path>) -> Result<(), PlanError> {
        let data = self.captions_of(index).and_then(|captions| self.data.get(&captions));
        let elsewhere: HashSet<&Path> = data.map(|data| data.elsewhere().collect()).unwrap_or_default();
        let needed: Vec<&Path> = pictures.filter(|path| elsewhere.contains(path)).collect();
        match needed.first() {
            Some(first) => Err(PlanError::Elsewhere { count: needed.len(), first: first.to_path_buf() }),
            None => Ok(()),
        }
    }

    /// A stage's result, if the store has it. What the last run had is kept for this one too; anything else is written down
    /// and looked up again, since a collection beside this run may have been faster.
    fn kept(&self, store: &Store, name: &str, key: &Key) -> Result<Option<Digest>, PlanError> {
        let look_up = || -> Result<Option<Digest>, PlanError> {
            let found = self.whole(store.outputs(key)?).and_then(|outputs| Some(outputs.first()?.digest));
            Ok(found.filter(|digest| !self.names_lost(digest, store)))
        };
        let found = look_up()?;
        if found.is_none() || self.previous.get(name) == Some(key) {
            return Ok(found);
        }
        store.rely(key, &[])?;
        look_up()
    }

    /// Whether a stage's result names an object that was found lost.
    fn names_lost(&self, result: &Digest, store: &Store) -> bool {
        let artifact = || StageResult::stored(*result).artifact(Some(store));
        let names = |artifact: Artifact| artifact.entries.iter().any(|entry| self.lost.contains(&entry.digest));
        !self.lost.is_empty() && artifact().is_ok_and(names)
    }

    /// What the store has of a job's actions.
    pub fn outputs(&self, job: &Job) -> Result<Vec<Option<Vec<Output>>>, PlanError> {
        let Some(store) = self.store else { return Ok(vec![None; job.actions().len()]) };
        let keys: Vec<Key> = job.actions().iter().map(|action| action.key).collect();
        let mut outputs = store.outputs_of(&keys)?;
        if !self.lost.is_empty() {
            outputs.iter_mut().for_each(|outputs| *outputs = self.whole(outputs.take()));
        }
        job.settle(&mut outputs, store)?;
        Ok(outputs)
    }

    /// All that a stage reads: its parameters, the model's parts, the numeric class, and the results of other stages by role.
    fn preimage(
        &self,
        stage: &ResolvedStage,
        index: usize,
        results: &[Option<StageResult>],
    ) -> Result<Preimage, PlanError> {
        let facts = self.facts_of(index)?;
        let mut preimage = Preimage::new(&stage.stage.kind().to_string(), stage.stage.revision());
        preimage.read("parameters", &stage.stage.parameters()?)?;
        let digest =
            |above: usize| results[above].as_ref().map_or(Value::Null, |result| result.digest.to_string().into());
        let mut inputs: Map<String, Value> =
            stage.upstream.iter().map(|upstream| (upstream.role.to_owned(), digest(upstream.stage))).collect();
        let model = match stage.stage.kind() {
            Kind::Captions => Value::Null,
            Kind::EncodeText => facts.text_encoders(),
            Kind::EncodeImages => facts.digests(&[Component::VaeEncoder]),
            Kind::Train => match &stage.stage {
                Stage::Train(parameters) => facts.start(&parameters.method),
                _ => Value::Null,
            },
            Kind::Export => match &stage.stage {
                Stage::Export(parameters) => export::job::model(parameters, &facts, self.adapter_of(index)),
                _ => Value::Null,
            },
            Kind::Sample => match &stage.stage {
                Stage::Sample(parameters) => sample::model(parameters, &facts),
                _ => Value::Null,
            },
        };
        // Training and exporting read the items themselves too: their repeats, their ids, where a checkpoint comes from.
        if matches!(stage.stage.kind(), Kind::Train | Kind::Export) {
            inputs.insert("captions".to_owned(), self.captions_of(index).map_or(Value::Null, digest));
        }
        if let Stage::Train(_) = stage.stage {
            preimage.read("t5_tokens", &self.t5_tokens_of(index))?;
        }
        if let Stage::Export(_) = stage.stage {
            preimage.read("pipeline", &self.resolved.pipeline.name)?;
            preimage.read("resolution", &self.resolution_of(index))?;
        }
        preimage.read("model", &model)?;
        preimage.read("device", &facts.device)?;
        preimage.read("inputs", &inputs)?;
        Ok(preimage)
    }

    /// The epoch with the lowest held-out loss, for an export that asks for it. Where that is only foreseen, the last one stands for it.
    fn best_epoch(&self, parameters: &Export, train: &Artifact, foreseen: bool) -> Result<Option<u32>, PlanError> {
        if parameters.epochs != Epochs::Best {
            return Ok(None);
        }
        let Some(store) = self.store.filter(|_| !foreseen) else {
            return Ok(train.of(VALIDATION).filter_map(|entry| entry.item.parse().ok()).max());
        };
        let read = |entry: &Entry| -> Result<Report, PlanError> {
            let unreadable = |reason| StageError::Unreadable { what: "a validation".to_owned(), reason };
            Ok(Report::from_bytes(&store.read(&entry.digest)?).map_err(unreadable)?)
        };
        let reports = train.of(VALIDATION).map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(best(reports, parameters.weights == Weights::Average))
    }

    /// The keys of all that is looked up for a stage, given the results of those before it.
    pub fn keys_of(&mut self, index: usize, results: &[Option<StageResult>]) -> Result<Vec<Key>, PlanError> {
        let resolved = self.resolved;
        Ok(self.job(&resolved.stages[index], index, results)?.keys()?)
    }

    fn job(&mut self, stage: &ResolvedStage, index: usize, results: &[Option<StageResult>]) -> Result<Job, PlanError> {
        let store = self.store;
        let facts = self.facts_of(index)?;
        let result = |above: usize| results[above].as_ref().ok_or_else(|| self.missing_input(above));
        let above = |role: &str| {
            let upstream = stage.upstream.iter().find(|upstream| upstream.role == role);
            result(upstream.map_or(index, |upstream| upstream.stage))
        };
        let artifact = |role: &str| above(role)?.artifact(store);
        let captions = self.captions_of(index).unwrap_or(index);
        let items = || -> Result<Items, PlanError> { result(captions)?.items(store) };
        Ok(match &stage.stage {
            Stage::Captions(_) => return Err(self.missing_input(index)),
            Stage::EncodeText(parameters) => {
                let items = items()?;
                let texts = items
                    .as_slice()
                    .iter()
                    .flat_map(|item| item.texts.iter().map(|text| (text.as_str(), item.id.as_str())));
                Job::Text(TextJob::new(parameters, &facts, texts)?)
            }
            Stage::EncodeImages(parameters) => {
                let items = items()?;
                let files = self.data(captions)?.files_in_order();
                Job::Images(ImagesJob::new(parameters, &facts, items.as_slice(), files)?)
            }
            Stage::Train(parameters) => {
                if let Some(start) = self.start(index)? {
                    start.verify(store)?;
                }
                let (items, text, latents) = (items()?, artifact("text")?, artifact("latents")?);
                Job::Train(TrainJob::new(
                    parameters,
                    &facts,
                    items.as_slice(),
                    &text,
                    &latents,
                    self.t5_tokens_of(index),
                )?)
            }
            Stage::Export(parameters) => {
                let provenance = Provenance {
                    pipeline: self.resolved.pipeline.name.clone(),
                    data: result(captions)?.digest,
                    resolution: self.resolution_of(index),
                };
                let train = artifact("train")?;
                let best = self.best_epoch(parameters, &train, above("train")?.foreseen)?;
                Job::Export(ExportJob::new(parameters, &facts, provenance, self.adapter_of(index), &train, best)?)
            }
            Stage::Sample(parameters) => {
                let adapter = self.adapter_of(index);
                Job::Sample(SampleJob::new(parameters, &facts, adapter, &artifact("export")?)?)
            }
        })
    }
}
