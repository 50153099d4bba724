//! The configuration as it is written: every key that is known, in the order of the chapter, each
//! absent or with a value of its type. Nothing is checked or defaulted here.

use std::collections::BTreeMap;

use super::pipelines::Pipeline;
use super::section::{Kept, Placed, sections};
use super::units::{Size, Span};
use crate::yaml::Node;

sections! {
    /// One file, or all of them merged.
    Config as "config.Config" {
        include: Vec<String>,
        environment_vars: Option<EnvironmentVars>,
        service: Option<Service>,
        state: Option<State>,
        database: Option<Database>,
        secrets: Option<Secrets>,
        api: Option<Api>,
        plugin_roots: Vec<String>,
        tcc_paths: Vec<String>,
        plugins: BTreeMap<String, Plugin>,
        accounts: BTreeMap<String, Account>,
        routes: Kept,
        webhooks: Kept,
        instances: Kept,
        remote_ingress: Kept,
        relay: Kept,
        pipelines: Vec<Pipeline>,
        tokens: Kept,
    }

    EnvironmentVars as "config.EnvironmentVarsConfig" {
        include: Vec<String>,
    }

    State as "config.StateConfig" {
        path: Option<String>,
    }

    Database as "config.DatabaseConfig" {
        path: Option<String>,
    }

    Secrets as "config.SecretsConfig" {
        age_key_file: Option<String>,
        vault_file: Option<String>,
    }

    Service as "config.ServiceConfig" {
        name: Option<String>,
        tick_interval: Option<Span>,
        log_level: Option<String>,
        log_format: Option<String>,
        dedupe_ttl: Option<Span>,
        job_log_retention: Option<Span>,
        job_queue_retention: Option<Span>,
        job_transitions_retention: Option<Span>,
        job_attempts_retention: Option<Span>,
        breaker_transitions_retention: Option<Span>,
        schedule_occurrences_retention: Option<Span>,
        event_context_retention: Option<Span>,
        plugin_facts_retention: Option<Span>,
        config_snapshots_retention: Option<Span>,
        stopwatch_retention: Option<Span>,
        max_workers: Option<i64>,
        plugin_env_passthrough: Vec<String>,
        admission: Option<Admission>,
        strict_mode: Option<bool>,
        allow_symlinks: Option<bool>,
        hook_max_depth: Option<i64>,
        max_causal_hops: Option<i64>,
        unconfined: Option<bool>,
    }

    Admission as "config.AdmissionConfig" {
        verify_integrity_on_boot: Option<bool>,
        fail_on_drift: Option<bool>,
        validate_config_on_boot: Option<bool>,
        require_api_auth: Option<bool>,
        fail_on_sidedoor: Option<bool>,
    }

    Api as "config.APIConfig" {
        enabled: Option<bool>,
        listen: Option<String>,
        auth: Option<ApiAuth>,
        max_concurrent_sync: Option<i64>,
        max_sync_timeout: Option<Span>,
        max_body_size: Option<Size>,
        idempotency_ttl: Option<Span>,
        trusted_proxies: Vec<String>,
        allowed_origins: Vec<String>,
        vault_over_http: Option<bool>,
        management_socket: Option<String>,
    }

    ApiAuth as "config.APIAuthConfig" {
        tokens: Vec<ApiToken>,
    }

    ApiToken as "config.APIToken" {
        scopes: Vec<String>,
        token: Option<String>,
        secret_ref: Option<String>,
    }

    Plugin as "config.PluginConf" {
        enabled: Option<bool>,
        uses: Option<String>,
        run_as: Option<String>,
        requires_vault: Option<bool>,
        vault_principal: Option<String>,
        schedule: Kept,
        schedules: Vec<Placed<Schedule>>,
        config: Option<Node>,
        retry: Option<Retry>,
        timeouts: BTreeMap<String, Span>,
        circuit_breaker: Option<CircuitBreaker>,
        max_outstanding_polls: Option<i64>,
        parallelism: Option<i64>,
        notify_on_complete: Option<bool>,
        env_passthrough: Vec<String>,
        shared_account: Option<bool>,
        attest: Option<String>,
        skip_identical_facts: Option<bool>,
    }

    Schedule as "config.ScheduleConfig" {
        id: Option<String>,
        every: Option<Placed<String>>,
        cron: Option<Placed<String>>,
        at: Option<Placed<String>>,
        after: Option<Placed<String>>,
        command: Option<Placed<String>>,
        payload: Option<Placed<Node>>,
        jitter: Option<Placed<String>>,
        only_between: Option<Placed<String>>,
        timezone: Option<Placed<String>>,
        not_on: Vec<Placed<String>>,
        catch_up: Option<Placed<String>>,
        if_running: Option<Placed<String>>,
        // Taken and without effect, as in the reference.
        preferred_window: Kept,
    }

    Retry as "config.RetryConfig" {
        max_attempts: Option<i64>,
        backoff_base: Option<Span>,
    }

    CircuitBreaker as "config.CircuitBreakerConfig" {
        threshold: Option<i64>,
        reset_after: Option<Span>,
    }

    Account as "config.AccountConfig" {
        uid: Option<i64>,
        gid: Option<i64>,
        state_dir: Option<String>,
        home: Option<String>,
    }
}
