//! The plugins of a pipeline, one after the other.
//!
//! Owns how a batch goes through the stages: composing `sources`, withdrawing what failed. Never acts
//! on a failure but `pass`. A worker owns a [`Chain`]; all share the [`ChainPlan`].

use std::borrow::Cow;
use std::sync::Arc;

use super::artifact::Artifact;
use super::describe::{config_text, described, refused};
use super::instance::Loaded;
use super::stage::{Failed, Formatted, Input, Stage, StagePlan};
use super::{
    Columns, Failure, Host, OnError, PluginError, PluginId, ProcessorPlan, Tolerance, Transformed,
};
use crate::record::{Batch, Column, Outputs, Records};

/// The chain of a pipeline, loaded and compiled, shared by its workers (`Send + Sync`).
pub struct ChainPlan {
    /// Who stands at each stage.
    pub plugins: Vec<PluginId>,
    /// What each stage's failures cost.
    pub on_error: Vec<OnError>,
    /// How many failures each stage may have.
    pub tolerance: Vec<Option<Tolerance>>,
    stages: Vec<Arc<StagePlan>>,
}

impl ChainPlan {
    /// Loads every plugin: from the code cache, or compiled (seconds for a large plugin).
    ///
    /// # Errors
    /// The first plugin that cannot be used, and which side must change.
    pub fn load(host: &Host, processors: &[ProcessorPlan]) -> Result<Self, PluginError> {
        let mut plugins = Vec::with_capacity(processors.len());
        let mut stages = Vec::with_capacity(processors.len());
        for processor in processors {
            let artifact = Artifact::read(&processor.artifact)?;
            let description = described(&artifact, host.cache(), || Ok(host.clone()))?;
            let loaded = Loaded::new(host, &artifact, &processor.limits)?;
            stages.push(Arc::new(StagePlan {
                loaded: loaded.named(&description.id.name),
                config: config_text(&processor.config),
                columns: description.columns,
                on_error: processor.on_error,
            }));
            plugins.push(description.id);
        }
        Ok(Self {
            plugins,
            on_error: processors.iter().map(|p| p.on_error).collect(),
            tolerance: processors.iter().map(|p| p.tolerance).collect(),
            stages,
        })
    }

    /// Starts an instance of every plugin and configures it: once a worker, before its first record.
    ///
    /// # Errors
    /// Where a plugin refuses its config.
    pub fn start(&self) -> Result<Chain, PluginError> {
        let started = self.stages.iter().zip(&self.plugins).map(|(stage, id)| {
            let label = format!("{} {}", id.name, id.version);
            Stage::start(stage).map_err(|fault| refused(&label, &fault))
        });
        Ok(Chain {
            stages: started.collect::<Result<_, _>>()?,
        })
    }
}

/// The running plugins of one worker (`Send`, not `Sync`).
pub struct Chain {
    stages: Vec<Stage>,
}

impl Chain {
    /// Sends a batch through all stages. Blocks for as long as the guests compute, each call bounded
    /// by its `limits.time`; never fails as a whole: what a plugin breaks is in `failures`.
    pub fn transform(&mut self, batch: &Batch) -> Transformed {
        let mut transformed = Transformed::default();
        let mut flow = Flow::new(&batch.records);
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let input = flow.input(stage.plan().columns);
            let formatted = stage.run(&input, |record| flow.key(record));
            drop(input);
            if formatted.failed.is_empty() {
                flow = flow.next(formatted);
            } else if stage.plan().on_error == OnError::Pass {
                flow.note(&formatted.failed, index, &mut transformed.passed);
                let formatted = flow.pass(formatted);
                flow = flow.next(formatted);
            } else {
                flow = flow.fail(formatted, index, &mut transformed.failures);
            }
        }
        transformed
            .failures
            .sort_unstable_by_key(|failure| failure.input);
        transformed.outputs = flow.into_outputs();
        transformed
    }
}

/// The records between two stages.
struct Flow<'b> {
    /// As the source read them.
    records: &'b Records,
    payloads: Arc<Column>,
    /// Empty: each has the key of the record it came from.
    keys: Column,
    /// Which record each came from; `None`: they are those of the batch.
    sources: Option<Vec<u32>>,
}

impl<'b> Flow<'b> {
    fn new(records: &'b Records) -> Self {
        Self {
            records,
            payloads: Arc::clone(&records.payloads),
            keys: Column::default(),
            sources: None,
        }
    }

    fn source(&self, index: u32) -> u32 {
        match &self.sources {
            Some(sources) => sources[index as usize],
            None => index,
        }
    }

    fn key(&self, index: u32) -> &[u8] {
        if !self.keys.is_empty() {
            return self.keys.get(index as usize);
        }
        let source = self.source(index) as usize;
        self.records.key(source).unwrap_or_default()
    }

    /// What a plugin that reads `columns` gets. Nothing is copied while the records are the batch's
    /// own, nor are columns that nobody reads.
    fn input(&self, columns: Columns) -> Input<'_> {
        let records = self.records;
        let inherited = |wanted: bool, column: &'b Column| match &self.sources {
            _ if !wanted || column.is_empty() => Cow::Owned(Column::default()),
            None => Cow::Borrowed(column),
            Some(sources) => {
                let values = sources.iter().map(|source| column.get(*source as usize));
                Cow::Owned(values.collect())
            }
        };
        let timestamps = match &self.sources {
            _ if !columns.timestamps || records.timestamps.is_empty() => Cow::Owned(Vec::new()),
            None => Cow::Borrowed(&records.timestamps[..]),
            Some(sources) => sources
                .iter()
                .map(|source| records.timestamps[*source as usize])
                .collect(),
        };
        Input {
            payloads: &self.payloads,
            keys: if columns.keys && !self.keys.is_empty() {
                Cow::Borrowed(&self.keys)
            } else {
                inherited(columns.keys, &records.keys)
            },
            timestamps,
            attributes: inherited(columns.attributes, &records.attributes),
        }
    }

    /// The records after a stage.
    fn next(self, formatted: Formatted) -> Self {
        let keys = if !formatted.keys.is_empty() || self.keys.is_empty() {
            formatted.keys
        } else {
            let kept = formatted.sources.iter();
            kept.map(|index| self.keys.get(*index as usize)).collect()
        };
        let sources = match &self.sources {
            None => formatted.sources,
            Some(_) => {
                let sources = formatted.sources.iter();
                sources.map(|index| self.source(*index)).collect()
            }
        };
        Self {
            records: self.records,
            payloads: Arc::new(formatted.payloads),
            keys,
            sources: Some(sources),
        }
    }

    /// The records after a stage where some failed: every output of their inputs is withdrawn.
    fn fail(self, mut formatted: Formatted, stage: usize, failures: &mut Vec<Failure>) -> Self {
        let failed = std::mem::take(&mut formatted.failed);
        let withdrawn = self.note(&failed, stage, failures);
        let records = self.records;
        let mut outputs = self.next(formatted).into_outputs();
        outputs.withdraw(&withdrawn);
        Self {
            records,
            payloads: outputs.payloads,
            keys: outputs.keys,
            sources: Some(outputs.sources),
        }
    }

    /// Adds what failed at a stage to `failures`, by the inputs that it came from, and returns those.
    fn note(&self, failed: &[Failed], stage: usize, failures: &mut Vec<Failure>) -> Vec<u32> {
        let mut inputs: Vec<u32> = Vec::with_capacity(failed.len());
        for failed in failed {
            // An input with several outputs fails once, with its first reason.
            let input = self.source(failed.index);
            if inputs.last() == Some(&input) {
                continue;
            }
            inputs.push(input);
            failures.push(Failure {
                input,
                stage,
                reason: failed.reason.clone(),
                fault: failed.fault,
            });
        }
        inputs
    }

    /// What a stage made, with the records that it failed on as they were, in their places.
    fn pass(&self, formatted: Formatted) -> Formatted {
        let mut passed = Formatted::default();
        let mut output = 0;
        let mut take_below = |passed: &mut Formatted, end: Option<u32>| {
            while let Some(&source) = formatted.sources.get(output)
                && end.is_none_or(|end| source < end)
            {
                passed.payloads.push(formatted.payloads.get(output));
                if !formatted.keys.is_empty() {
                    passed.keys.push(formatted.keys.get(output));
                }
                passed.sources.push(source);
                output += 1;
            }
        };
        for failed in &formatted.failed {
            take_below(&mut passed, Some(failed.index));
            passed
                .payloads
                .push(self.payloads.get(failed.index as usize));
            if !formatted.keys.is_empty() {
                passed.keys.push(self.key(failed.index));
            }
            passed.sources.push(failed.index);
        }
        take_below(&mut passed, None);
        passed
    }

    fn into_outputs(self) -> Outputs {
        match self.sources {
            None => Outputs::unchanged(self.records),
            Some(sources) => Outputs {
                payloads: self.payloads,
                keys: self.keys,
                sources,
            },
        }
    }
}
