//! Owns the figures that Prometheus reads. Knows nothing of where they come from.

use csb_api::PoolView;
use csb_node::MemoryStats;
use csb_types::StartedBy;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct How {
    how: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// Seconds; from a tenth of a millisecond, because an exec takes a few.
const BUCKETS: [f64; 14] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// All figures of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    answers: Family<Answer, Counter>,
    latency: Family<Route, Histogram, fn() -> Histogram>,
    creates: Family<How, Counter>,
    create_latency: Family<How, Histogram, fn() -> Histogram>,
    create_failures: Counter,
    execs: Counter,
    sandboxes: Family<State, Gauge>,
    pool: Family<State, Gauge>,
    pool_failures: Gauge,
    connections: Gauge,
    locals: Family<State, Gauge>,
    memory_available: Gauge,
    memory_stalled: Gauge,
    memory_pressure: Gauge,
    memory_refused: Gauge,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("csb");
        let metrics = Self {
            answers: Family::default(),
            latency: Family::new_with_constructor(histogram as fn() -> Histogram),
            creates: Family::default(),
            create_latency: Family::new_with_constructor(histogram as fn() -> Histogram),
            create_failures: Counter::default(),
            execs: Counter::default(),
            sandboxes: Family::default(),
            pool: Family::default(),
            pool_failures: Gauge::default(),
            connections: Gauge::default(),
            locals: Family::default(),
            memory_available: Gauge::default(),
            memory_stalled: Gauge::default(),
            memory_pressure: Gauge::default(),
            memory_refused: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests by route and status", metrics.answers.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time until the head of the answer, by route",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        registry.register("sandbox_creates", "Sandboxes made, by how they started", metrics.creates.clone());
        registry.register_with_unit(
            "sandbox_start_duration",
            "Time from request to ready, by how it started",
            Unit::Seconds,
            metrics.create_latency.clone(),
        );
        registry.register("sandbox_create_failures", "Sandboxes not made", metrics.create_failures.clone());
        registry.register("execs", "Commands started", metrics.execs.clone());
        registry.register("sandboxes", "Sandboxes by state", metrics.sandboxes.clone());
        registry.register("pool_sandboxes", "Sandboxes of the pool: ready, in use", metrics.pool.clone());
        registry.register(
            "pool_build_failures",
            "Failed builds for the pool since start",
            metrics.pool_failures.clone(),
        );
        registry.register("local_sandboxes", "Sandboxes of kind `local`: awake, asleep", metrics.locals.clone());
        registry.register_with_unit(
            "host_memory_available",
            "Memory of the host that is available",
            Unit::Bytes,
            metrics.memory_available.clone(),
        );
        registry.register(
            "host_memory_stalled_percent",
            "How much of the last ten seconds all programs of the host waited for memory; -1: the kernel does not tell",
            metrics.memory_stalled.clone(),
        );
        registry.register(
            "memory_pressure",
            "0: none, 1: nothing is kept ready, 2: nothing new is made",
            metrics.memory_pressure.clone(),
        );
        registry.register(
            "memory_refusals",
            "Sandboxes not made or woken for want of memory since start",
            metrics.memory_refused.clone(),
        );
        registry.register("http_connections", "Open connections", metrics.connections.clone());
        Self { registry, ..metrics }
    }

    /// A request was answered.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let (method, route) = (method.to_owned(), route.to_owned());
        self.latency.get_or_create(&Route { method: method.clone(), route: route.clone() }).observe(took.as_secs_f64());
        self.answers.get_or_create(&Answer { method, route, status }).inc();
    }

    /// A sandbox was made.
    pub fn created(&self, by: StartedBy, micros: u64) {
        let how = How {
            how: match by {
                StartedBy::Claim => "claim",
                StartedBy::Cold => "cold",
            },
        };
        self.create_latency.get_or_create(&how).observe(micros as f64 / 1e6);
        self.creates.get_or_create(&how).inc();
    }

    /// A sandbox was not made.
    pub fn create_failed(&self) {
        self.create_failures.inc();
    }

    /// A command was started.
    pub fn exec_started(&self) {
        self.execs.inc();
    }

    /// A connection was opened (1) or closed (-1).
    pub fn connections(&self, change: i64) {
        self.connections.inc_by(change);
    }

    /// All figures in the text format, with the pool, the `local` sandboxes (all, asleep) and the host's memory as they are now.
    pub fn text(&self, pool: &PoolView, locals: (u64, u64), memory: MemoryStats) -> Result<String, std::fmt::Error> {
        let set = |family: &Family<State, Gauge>, state, value: u64| {
            family.get_or_create(&State { state }).set(value as i64);
        };
        set(&self.sandboxes, "running", pool.sandboxes.running);
        set(&self.sandboxes, "paused", pool.sandboxes.paused);
        set(&self.pool, "ready", pool.pool.ready);
        set(&self.pool, "in_use", pool.pool.in_use);
        set(&self.locals, "awake", locals.0 - locals.1);
        set(&self.locals, "asleep", locals.1);
        self.memory_available.set(memory.available.min(i64::MAX as u64) as i64);
        self.memory_stalled.set(memory.stalled.map_or(-1, |hundredths| hundredths as i64 / 100));
        self.memory_pressure.set(memory.pressure as i64);
        self.memory_refused.set(memory.refused as i64);
        self.pool_failures.set(pool.pool.failures as i64);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
