//! What was found out about an adapter, as it is kept from one run to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::device::choices::Choices;
use crate::device::recording::{Dispatch, PipelineKey};
use crate::device::{Device, DeviceInfo};
use crate::files::notes::Notes;
use crate::ops::shaders_hash;

/// What is known of an adapter, as it is kept.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub(super) struct Verdict {
    adapter: String,
    backend: String,
    driver: String,
    pub shaders: u64,
    /// Calls that are computed rightly, each by its number.
    pub right: BTreeSet<u64>,
    /// Pipelines that compute wrongly, and what is wrong.
    pub wrong: BTreeMap<String, String>,
}

impl Verdict {
    pub fn new(info: &DeviceInfo) -> Verdict {
        let (adapter, backend, driver) = (info.name.clone(), info.backend.clone(), info.driver.clone());
        let (right, wrong) = (BTreeSet::new(), BTreeMap::new());
        Verdict { adapter, backend, driver, shaders: shaders_hash(), right, wrong }
    }

    /// The name of the file that it is kept in.
    fn file(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.adapter, &self.backend, &self.driver).hash(&mut hasher);
        format!("check-{:016x}.json", hasher.finish())
    }

    /// What was kept of this adapter, driver and version; what is damaged or of others counts for nothing.
    pub async fn read(info: &DeviceInfo, notes: Option<&dyn Notes>) -> Verdict {
        let new = Verdict::new(info);
        let Some(notes) = notes else { return new };
        let kept = notes.read(&new.file()).await.and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
        let same = |v: &Verdict| {
            (&v.adapter, &v.backend, &v.driver, v.shaders) == (&new.adapter, &new.backend, &new.driver, new.shaders)
        };
        kept.filter(same).unwrap_or(new)
    }

    /// Keeps it, with what others found meanwhile.
    pub async fn write(&mut self, info: &DeviceInfo, notes: Option<&dyn Notes>) {
        let Some(notes) = notes else { return };
        let kept = Verdict::read(info, Some(notes)).await;
        let stands = |number: &u64| !self.right.contains(number);
        let more: Vec<u64> = kept.right.into_iter().filter(stands).collect();
        self.right.extend(more);
        for (pipeline, fault) in kept.wrong {
            self.wrong.entry(pipeline).or_insert(fault);
        }
        if let Ok(bytes) = serde_json::to_vec(self) {
            notes.write(&self.file(), &bytes).await;
        }
    }

    /// Lets a device take other ways than those that are wrong.
    pub fn strike(&self, device: &Device) {
        let mut choices = Choices::clone(&device.choices());
        self.wrong.keys().for_each(|pipeline| choices.strike(pipeline));
        device.set_choices(choices);
    }
}

/// A call's number: no other pipeline, parameters or grid have it.
pub(super) fn number(call: &Dispatch) -> u64 {
    let mut hasher = DefaultHasher::new();
    (PipelineKey::of(call).to_string(), &call.params, call.workgroups).hash(&mut hasher);
    hasher.finish()
}
