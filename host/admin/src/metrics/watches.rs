//! Metrics of the watches, a kind each, and of the cache that they fill.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::series::Series;
use super::{FloatGauge, OfKind, OfPlugin, counter, gauge, one, reach, whole};

/// One watch, read when it is scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchNow {
    /// Objects held.
    pub objects: usize,
    /// Bytes that they take.
    pub bytes: usize,
    /// Bytes of JSON among those.
    pub json_bytes: usize,
    /// Lists read to their end since the start.
    pub lists: u64,
    /// Events since the start, bookmarks not counted.
    pub events: u64,
    /// Requests that failed since the start.
    pub errors: u64,
    /// Age of the last event or bookmark, if there was one.
    pub last_event_age: Option<Duration>,
    /// How far the cache may lag: the age of the last sign of life, if there was one.
    pub alive_age: Option<Duration>,
}

/// What is watched and held.
#[derive(Debug)]
pub struct WatchMetrics {
    objects: Series<OfKind, Gauge>,
    bytes: Series<OfKind, Gauge>,
    json_bytes: Series<OfKind, Gauge>,
    bills: Series<OfPlugin, Gauge>,
    limit: Gauge,
    lists: Series<OfKind, Counter>,
    events: Series<OfKind, Counter>,
    errors: Series<OfKind, Counter>,
    relists: Series<OfKind, Counter>,
    last_event: Series<OfKind, FloatGauge>,
    alive: Series<OfKind, FloatGauge>,
}

impl WatchMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            objects: gauge(r, "windlass_cache_objects", "Objects held of a kind"),
            bytes: gauge(r, "windlass_cache_bytes", "Bytes that the objects of a kind take"),
            json_bytes: gauge(r, "windlass_cache_json_bytes", "Bytes of JSON held of a kind"),
            bills: gauge(
                r,
                "windlass_cache_plugin_bytes",
                "A plugin's share of the cache: the bytes of each kind split among those that use it",
            ),
            limit: one(r, "windlass_cache_limit_bytes", "What the cache may take; 0: there is no limit"),
            lists: counter(r, "windlass_watch_lists", "Lists read to their end"),
            events: counter(r, "windlass_watch_events", "Events read, bookmarks not counted"),
            errors: counter(r, "windlass_watch_errors", "Requests of a watch that failed"),
            relists: counter(
                r,
                "windlass_own_write_relists",
                "Lists that were asked for because the watch did not show our own write",
            ),
            last_event: gauge(
                r,
                "windlass_watch_last_event_age_seconds",
                "Time since the last event or bookmark of a kind",
            ),
            alive: gauge(
                r,
                "windlass_watch_lag_seconds",
                "Time since a watch last showed that it lives: above 30 the cache may be behind",
            ),
        }
    }

    /// Forgets which kinds were watched and who used them; the others say which are.
    pub fn clear(&self) {
        for gauge in [&self.objects, &self.bytes, &self.json_bytes] {
            gauge.clear();
        }
        for counter in [&self.lists, &self.events, &self.errors] {
            counter.clear();
        }
        self.bills.clear();
        self.last_event.clear();
        self.alive.clear();
    }

    /// Sets one watch as it is now.
    pub fn set(&self, kind: &str, now: WatchNow) {
        let of = OfKind { kind: kind.to_owned() };
        for (gauge, value) in
            [(&self.objects, now.objects), (&self.bytes, now.bytes), (&self.json_bytes, now.json_bytes)]
        {
            gauge.get_or_create(&of).set(whole(value as u64));
        }
        for (counter, value) in
            [(&self.lists, now.lists), (&self.events, now.events), (&self.errors, now.errors)]
        {
            reach(&counter.get_or_create(&of), value);
        }
        for (gauge, age) in [(&self.last_event, now.last_event_age), (&self.alive, now.alive_age)] {
            if let Some(age) = age {
                gauge.get_or_create(&of).set(age.as_secs_f64());
            }
        }
    }

    /// A kind is listed because its watch did not show one of our own writes. Kept also when
    /// nobody watches the kind any more: there are few.
    pub fn own_write_unseen(&self, kind: &str) {
        self.relists.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    /// Sets what the cache may take.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.limit.set(whole(bytes.unwrap_or(0) as u64));
    }

    /// Sets what a plugin costs.
    pub fn set_bill(&self, plugin: &str, bytes: usize) {
        self.bills.get_or_create(&OfPlugin { plugin: plugin.to_owned() }).set(whole(bytes as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_kind_and_a_bill_are_there_until_they_are_cleared() {
        let metrics = Metrics::new();
        let age = Some(Duration::from_millis(1500));
        metrics.watches().set_limit(Some(64 << 20));
        metrics.watches().set_bill("webapp", 700);
        let now = WatchNow { objects: 5, bytes: 900, json_bytes: 800, alive_age: age, ..WatchNow::default() };
        metrics.watches().set("v1/ConfigMap", now);
        let text = metrics.text();
        for line in [
            "windlass_cache_objects{kind=\"v1/ConfigMap\"} 5\n",
            "windlass_cache_bytes{kind=\"v1/ConfigMap\"} 900\n",
            "windlass_cache_json_bytes{kind=\"v1/ConfigMap\"} 800\n",
            "windlass_cache_plugin_bytes{plugin=\"webapp\"} 700\n",
            "windlass_cache_limit_bytes 67108864\n",
            "windlass_watch_lag_seconds{kind=\"v1/ConfigMap\"} 1.5\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("windlass_watch_last_event_age_seconds{"), "there was none");
        metrics.watches().clear();
        let text = metrics.text();
        assert!(!text.contains("ConfigMap") && !text.contains("windlass_cache_plugin_bytes{"), "{text}");
    }
}
