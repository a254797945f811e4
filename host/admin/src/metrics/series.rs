//! Metrics with labels, of which some can be taken away again.
//!
//! prometheus-client's `Family` forgets one label set that is named in full, or all of
//! them. A plugin that goes has to take every series with it, whatever its other labels
//! are, or a host whose plugins come and go shows more with each of them.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// One metric for each set of labels. Cheap to clone; clones share what they count.
pub(super) struct Series<L, M> {
    all: Arc<RwLock<HashMap<L, M>>>,
    make: fn() -> M,
}

impl<L: Clone + Eq + Hash, M: Clone> Series<L, M> {
    /// No series yet; `make` makes one at its zero.
    pub(super) fn new(make: fn() -> M) -> Self {
        Self { all: Arc::default(), make }
    }

    /// The metric with these labels, which is made if there is none. What it counts is shared.
    pub(super) fn get_or_create(&self, labels: &L) -> M {
        let found = self.all.read().unwrap_or_else(PoisonError::into_inner).get(labels).cloned();
        found.unwrap_or_else(|| {
            let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(labels.clone()).or_insert_with(self.make).clone()
        })
    }

    /// Takes away every series that `keep` does not want.
    pub(super) fn retain(&self, mut keep: impl FnMut(&L, &M) -> bool) {
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|labels, metric| keep(labels, metric));
    }

    /// Takes away every series.
    pub(super) fn clear(&self) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl<L: Clone + Eq + Hash, M: Clone + Default> Default for Series<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<L, M> Clone for Series<L, M> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), make: self.make }
    }
}

impl<L: fmt::Debug, M: fmt::Debug> fmt::Debug for Series<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

impl<L: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Series<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in &*self.all.read().unwrap_or_else(PoisonError::into_inner) {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.all.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
