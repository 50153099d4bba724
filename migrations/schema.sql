-- The whole schema of a fresh database: the sum of the numbered migrations beside this file.
-- A test applies them in order and compares; change both together.

CREATE TABLE IF NOT EXISTS job_queue (
  id TEXT PRIMARY KEY,
  plugin TEXT NOT NULL,
  command TEXT NOT NULL,
  payload JSON,
  status TEXT NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 1,
  max_attempts INTEGER NOT NULL DEFAULT 4,
  submitted_by TEXT NOT NULL,
  dedupe_key TEXT,
  created_at TEXT NOT NULL,
  started_at TEXT,
  completed_at TEXT,
  next_retry_at TEXT,
  last_error TEXT,
  parent_job_id TEXT,
  source_event_id TEXT,
  event_context_id TEXT,
  enqueued_config_snapshot_id TEXT,
  started_config_snapshot_id TEXT
);

CREATE INDEX IF NOT EXISTS job_queue_status_created_at_idx ON job_queue(status, created_at);
CREATE INDEX IF NOT EXISTS job_queue_plugin_command_status_idx ON job_queue(plugin, command, status);
-- Rows that no look-up by this key can find are left out: most jobs have none, and each index costs
-- a page of every commit. The same holds for job_stopwatch_pipeline_idx.
CREATE INDEX IF NOT EXISTS job_queue_dedupe_status_completed_idx
  ON job_queue(dedupe_key, status, completed_at) WHERE dedupe_key IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS job_queue_event_source_idx
  ON job_queue(parent_job_id, source_event_id, plugin, command) WHERE source_event_id IS NOT NULL;

-- Ours: the reference's own indexes do not carry a million rows.
CREATE INDEX IF NOT EXISTS job_queue_parent_idx ON job_queue(parent_job_id) WHERE parent_job_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS job_queue_created_at_idx ON job_queue(created_at);
CREATE INDEX IF NOT EXISTS job_queue_plugin_created_at_idx ON job_queue(plugin, created_at);
CREATE INDEX IF NOT EXISTS job_queue_waiting_idx
  ON job_queue(plugin, next_retry_at, created_at) WHERE status = 'queued';

CREATE TABLE IF NOT EXISTS job_transitions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  from_status TEXT,
  to_status TEXT NOT NULL,
  reason TEXT,
  created_at TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS job_transitions_job_created_at_idx ON job_transitions(job_id, created_at);
CREATE INDEX IF NOT EXISTS job_transitions_created_at_idx ON job_transitions(created_at);

CREATE TABLE IF NOT EXISTS job_attempts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  UNIQUE(job_id, attempt)
);

CREATE INDEX IF NOT EXISTS job_attempts_job_created_at_idx ON job_attempts(job_id, created_at);
CREATE INDEX IF NOT EXISTS job_attempts_created_at_idx ON job_attempts(created_at);

CREATE TABLE IF NOT EXISTS config_snapshots (
  id TEXT PRIMARY KEY,
  config_hash TEXT NOT NULL,
  source_hash TEXT,
  source_path TEXT,
  source TEXT,
  reason TEXT NOT NULL,
  loaded_at TEXT NOT NULL,
  ductile_version TEXT,
  binary_path TEXT,
  snapshot_format INTEGER NOT NULL DEFAULT 1,
  semantics JSON,
  plugin_fingerprints JSON,
  sanitized_config JSON,
  secret_fingerprints JSON
);

CREATE TABLE IF NOT EXISTS plugin_state (
  plugin_name TEXT PRIMARY KEY,
  state JSON NOT NULL DEFAULT '{}',
  updated_at TEXT
);

CREATE TABLE IF NOT EXISTS storage_sequences (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL DEFAULT 0
);

-- seq is NULL in rows that are older than the column.
CREATE TABLE IF NOT EXISTS plugin_facts (
  id TEXT PRIMARY KEY,
  seq INTEGER,
  plugin_name TEXT NOT NULL,
  fact_type TEXT NOT NULL,
  job_id TEXT NOT NULL,
  command TEXT NOT NULL,
  fact_json JSON NOT NULL,
  created_at TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS plugin_facts_plugin_created_at_idx ON plugin_facts(plugin_name, created_at);
CREATE INDEX IF NOT EXISTS plugin_facts_plugin_type_created_at_idx
  ON plugin_facts(plugin_name, fact_type, created_at);
CREATE INDEX IF NOT EXISTS plugin_facts_plugin_seq_idx ON plugin_facts(plugin_name, seq);
CREATE INDEX IF NOT EXISTS plugin_facts_plugin_type_seq_idx ON plugin_facts(plugin_name, fact_type, seq);

CREATE TABLE IF NOT EXISTS event_context (
  id TEXT PRIMARY KEY,
  parent_id TEXT,
  pipeline_name TEXT,
  step_id TEXT,
  accumulated_json JSON NOT NULL,
  created_at TEXT NOT NULL
);

-- Ours: for retention, which keeps what a job names.
CREATE INDEX IF NOT EXISTS event_context_created_at_idx ON event_context(created_at);
CREATE INDEX IF NOT EXISTS job_queue_event_context_idx
  ON job_queue(event_context_id) WHERE event_context_id IS NOT NULL;

-- One row per attempt, id '<job_id>-<attempt>'; created_at is the job's.
CREATE TABLE IF NOT EXISTS job_log (
  id TEXT PRIMARY KEY,
  job_id TEXT,
  plugin TEXT NOT NULL,
  command TEXT NOT NULL,
  status TEXT NOT NULL,
  result TEXT,
  attempt INTEGER NOT NULL,
  submitted_by TEXT NOT NULL,
  created_at TEXT NOT NULL,
  completed_at TEXT NOT NULL,
  last_error TEXT,
  stderr TEXT,
  parent_job_id TEXT,
  source_event_id TEXT,
  event_context_id TEXT,
  enqueued_config_snapshot_id TEXT,
  started_config_snapshot_id TEXT
);

CREATE INDEX IF NOT EXISTS job_log_job_id_attempt_idx ON job_log(job_id, attempt);
CREATE INDEX IF NOT EXISTS job_log_completed_at_idx ON job_log(completed_at);
CREATE INDEX IF NOT EXISTS job_log_event_context_idx ON job_log(event_context_id) WHERE event_context_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS circuit_breakers (
  plugin TEXT NOT NULL,
  command TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'closed',
  failure_count INTEGER NOT NULL DEFAULT 0,
  opened_at TEXT,
  last_failure_at TEXT,
  last_job_id TEXT,
  updated_at TEXT NOT NULL,
  PRIMARY KEY(plugin, command)
);

CREATE TABLE IF NOT EXISTS circuit_breaker_transitions (
  id TEXT PRIMARY KEY,
  plugin TEXT NOT NULL,
  command TEXT NOT NULL,
  from_state TEXT,
  to_state TEXT NOT NULL,
  failure_count INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL,
  job_id TEXT,
  created_at TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS circuit_breaker_transitions_plugin_command_created_idx
  ON circuit_breaker_transitions(plugin, command, created_at);
CREATE INDEX IF NOT EXISTS circuit_breaker_transitions_created_at_idx ON circuit_breaker_transitions(created_at);

CREATE TABLE IF NOT EXISTS schedule_entries (
  plugin TEXT NOT NULL,
  schedule_id TEXT NOT NULL,
  command TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'active',
  reason TEXT,
  last_fired_at TEXT,
  last_success_job_id TEXT,
  last_success_at TEXT,
  next_run_at TEXT,
  updated_at TEXT NOT NULL,
  PRIMARY KEY(plugin, schedule_id)
);

-- Ours: what became of every slot; consecutive slots with one reason share a row.
CREATE TABLE IF NOT EXISTS schedule_occurrences (
  plugin TEXT NOT NULL,
  schedule_id TEXT NOT NULL,
  slot_at TEXT NOT NULL,
  until_at TEXT NOT NULL,
  slots INTEGER NOT NULL DEFAULT 1,
  outcome TEXT NOT NULL,
  reason TEXT,
  job_id TEXT,
  recorded_at TEXT NOT NULL,
  PRIMARY KEY(plugin, schedule_id, slot_at)
);

CREATE INDEX IF NOT EXISTS schedule_occurrences_until_at_idx ON schedule_occurrences(until_at);

-- Names and counts only, never a value.
CREATE TABLE IF NOT EXISTS vault_audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  op TEXT NOT NULL,
  principal TEXT,
  secret_name TEXT,
  actor TEXT,
  outcome TEXT NOT NULL,
  detail TEXT,
  created_at TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS vault_audit_created_at_idx ON vault_audit(created_at);
CREATE INDEX IF NOT EXISTS vault_audit_principal_created_idx ON vault_audit(principal, created_at);

CREATE TABLE IF NOT EXISTS job_stopwatch (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  plugin TEXT NOT NULL,
  pipeline TEXT,
  step_id TEXT,
  pipeline_instance_id TEXT,
  attempt INTEGER NOT NULL,
  enter_wall_ns INTEGER NOT NULL,
  exit_wall_ns INTEGER NOT NULL,
  dur_ns INTEGER NOT NULL,
  runtime_pre_ns INTEGER NOT NULL,
  runtime_post_ns INTEGER NOT NULL,
  status TEXT NOT NULL,
  subs_json TEXT NOT NULL DEFAULT '[]',
  recorded_at TEXT NOT NULL
);

CREATE INDEX IF NOT EXISTS job_stopwatch_job_attempt_idx ON job_stopwatch(job_id, attempt);
CREATE INDEX IF NOT EXISTS job_stopwatch_pipeline_idx
  ON job_stopwatch(pipeline, pipeline_instance_id) WHERE pipeline IS NOT NULL;

CREATE TABLE IF NOT EXISTS job_stopwatch_rollup_daily (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  plugin TEXT NOT NULL,
  pipeline TEXT NOT NULL DEFAULT '',
  step_id TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL,
  day_utc TEXT NOT NULL,
  sample_count INTEGER NOT NULL,
  sum_dur_ns INTEGER NOT NULL,
  min_dur_ns INTEGER NOT NULL,
  max_dur_ns INTEGER NOT NULL,
  p50_dur_ns INTEGER NOT NULL,
  p90_dur_ns INTEGER NOT NULL,
  p99_dur_ns INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  UNIQUE(plugin, pipeline, step_id, status, day_utc)
);

CREATE INDEX IF NOT EXISTS job_stopwatch_rollup_pipeline_day_idx
  ON job_stopwatch_rollup_daily(pipeline, step_id, day_utc);
CREATE INDEX IF NOT EXISTS job_stopwatch_rollup_plugin_day_idx ON job_stopwatch_rollup_daily(plugin, day_utc);

CREATE TABLE IF NOT EXISTS janitor_heartbeat (
  name TEXT PRIMARY KEY,
  last_run_at TEXT NOT NULL,
  last_status TEXT NOT NULL,
  last_error TEXT NOT NULL DEFAULT '',
  rows_rolled_up INTEGER NOT NULL DEFAULT 0,
  rows_deleted INTEGER NOT NULL DEFAULT 0
);
