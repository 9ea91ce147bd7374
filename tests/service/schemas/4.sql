BEGIN TRANSACTION;
CREATE TABLE service_batch_items (
	batch_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	scan_sha256 TEXT, 
	output TEXT, 
	job_id TEXT, 
	error JSON, 
	PRIMARY KEY (batch_id, position)
);
CREATE TABLE service_batches (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	on_error TEXT NOT NULL, 
	request JSON NOT NULL, 
	sealed BOOLEAN NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE service_deliveries (
	id TEXT NOT NULL, 
	job_id TEXT NOT NULL, 
	target TEXT NOT NULL, 
	products JSON NOT NULL, 
	state TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	stored JSON NOT NULL, 
	failures JSON NOT NULL, 
	error JSON, 
	created_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	PRIMARY KEY (id)
);
CREATE TABLE service_events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	job_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	data JSON NOT NULL
);
INSERT INTO "service_events" VALUES(1,'job1','end','{"state": "succeeded"}');
CREATE TABLE service_idempotency (
	owner TEXT NOT NULL, 
	route TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	location TEXT, 
	body JSON NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (owner, route, "key")
);
CREATE TABLE service_jobs (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	client_id TEXT, 
	request_digest TEXT, 
	predecessor TEXT, 
	scan_id TEXT NOT NULL, 
	scan_sha256 TEXT NOT NULL, 
	calibration_sha256 TEXT, 
	source TEXT, 
	output TEXT, 
	request JSON NOT NULL, 
	priority TEXT NOT NULL, 
	state TEXT NOT NULL, 
	progress JSON, 
	"plan" JSON, 
	error JSON, 
	results JSON, 
	summary JSON, 
	attempt INTEGER NOT NULL, 
	worker TEXT, 
	traceparent TEXT, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (owner, client_id)
);
INSERT INTO "service_jobs" VALUES('job1','key1',NULL,NULL,NULL,'scan1','abababababababababababababababababababababababababababababababab',NULL,NULL,NULL,'{"preset": "fast", "seed": 3}','interactive','succeeded',NULL,NULL,NULL,'[{"name": "result.h5", "media_type": "application/x-hdf5", "bytes": 3, "sha256": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}]','{"id": "job1", "scan_sha256": "abababababababababababababababababababababababababababababababab", "model": "brain-small", "preset": "fast", "samples": 4, "seed": 3, "evaluations_per_chain": 47, "not_for_diagnostic_use": true, "image": {"shape": [32, 32], "pixel_mm": null, "slice_mm": null}, "reached": {"mc_error": 0.21, "target_mc_error": null, "seconds_since_submission": 10.2, "deadline_s": null, "deadline_met": null}, "slices": [{"slice": 0, "converged": true, "warnings": [], "chi2": 1.02, "rhat_below_1.1": 0.9, "noise_over_scale": 0.03, "window": 1.5, "self_check": null}]}',1,NULL,NULL,1764081560.5,1764081561.5,1764081570.5,3);
INSERT INTO "service_jobs" VALUES('job2','key1',NULL,NULL,NULL,'scan1','abababababababababababababababababababababababababababababababab',NULL,NULL,NULL,'{"preset": "standard"}','interactive','failed',NULL,NULL,'{"type": "/problems/diverged", "status": 422, "title": "t", "detail": "d"}',NULL,NULL,1,NULL,NULL,1764081560.5,NULL,1764081571.5,3);
CREATE TABLE service_keys (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	scopes JSON NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	PRIMARY KEY (id)
);
INSERT INTO "service_keys" VALUES('key1','old','efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef','["read", "write"]',1764081500.5,NULL,NULL);
CREATE TABLE service_measurements (
	job_id TEXT NOT NULL, 
	number TEXT, 
	place TEXT, 
	received_at FLOAT NOT NULL, 
	PRIMARY KEY (job_id)
);
CREATE TABLE service_scans (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	slices INTEGER NOT NULL, 
	coils INTEGER NOT NULL, 
	rows INTEGER NOT NULL, 
	columns INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	tags JSON, 
	layout TEXT, 
	axes TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (owner, sha256)
);
INSERT INTO "service_scans" VALUES('scan1','key1','abababababababababababababababababababababababababababababababab',100,2,4,32,32,1764081559.5,'{}',NULL,NULL);
CREATE TABLE service_schema (
	version INTEGER NOT NULL, 
	since FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "service_schema" VALUES(4,0.0);
CREATE TABLE service_totals (
	name TEXT NOT NULL, 
	label TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (name, label)
);
CREATE TABLE service_workers (
	id TEXT NOT NULL, 
	device TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at FLOAT NOT NULL, 
	heartbeat_at FLOAT NOT NULL, 
	starts INTEGER NOT NULL, 
	offers JSON NOT NULL, 
	load JSON, 
	PRIMARY KEY (id)
);
CREATE INDEX service_jobs_worker ON service_jobs (worker, state);
CREATE INDEX service_jobs_state ON service_jobs (state);
CREATE INDEX service_jobs_output ON service_jobs (output);
CREATE INDEX service_jobs_owner ON service_jobs (owner, created_at);
CREATE INDEX service_events_job ON service_events (job_id, id);
CREATE INDEX service_batch_items_job ON service_batch_items (job_id);
CREATE INDEX service_measurements_number ON service_measurements (number);
CREATE INDEX service_measurements_place ON service_measurements (place);
CREATE INDEX service_deliveries_job ON service_deliveries (job_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('service_events',1);
COMMIT;
