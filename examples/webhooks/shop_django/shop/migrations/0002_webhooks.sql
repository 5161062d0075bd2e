CREATE TABLE IF NOT EXISTS buttress_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE buttress_webhooks_event (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, id TEXT NOT NULL,
             type TEXT NOT NULL, fingerprint BYTEA NOT NULL, occurred DOUBLE PRECISION, sent DOUBLE PRECISION,
             received DOUBLE PRECISION NOT NULL, delivered DOUBLE PRECISION, state TEXT NOT NULL, due DOUBLE PRECISION, attempt BIGINT NOT NULL,
             fence BIGINT NOT NULL, settled DOUBLE PRECISION, error TEXT, kept BIGINT NOT NULL, PRIMARY KEY (endpoint, account, mode, id));
CREATE TABLE buttress_webhooks_body (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, id TEXT NOT NULL, body BYTEA NOT NULL,
             PRIMARY KEY (endpoint, account, mode, id));
CREATE INDEX buttress_webhooks_due ON buttress_webhooks_event (endpoint, due) WHERE due IS NOT NULL;
CREATE INDEX buttress_webhooks_idle ON buttress_webhooks_event (endpoint, state, type) WHERE state IN ('dead', 'ignored');
CREATE INDEX buttress_webhooks_missed ON buttress_webhooks_event (endpoint, received) WHERE delivered IS NULL;
CREATE INDEX buttress_webhooks_old ON buttress_webhooks_event (endpoint, settled) WHERE settled IS NOT NULL AND kept = 1;
CREATE TABLE buttress_webhooks_order (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, guard TEXT NOT NULL, object TEXT NOT NULL,
             version TEXT NOT NULL, event TEXT NOT NULL, deleted BIGINT NOT NULL, PRIMARY KEY (endpoint, account, mode, guard, object));
CREATE TABLE buttress_webhooks_alarm (
             endpoint TEXT NOT NULL, account TEXT NOT NULL, mode TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
             fingerprint BYTEA NOT NULL, seen DOUBLE PRECISION NOT NULL, first BYTEA, other BYTEA,
             PRIMARY KEY (endpoint, account, mode, kind, key, fingerprint));
CREATE TABLE buttress_webhooks_doubt (
             endpoint TEXT NOT NULL, effect TEXT NOT NULL, key TEXT NOT NULL, fence BIGINT NOT NULL, seen DOUBLE PRECISION NOT NULL,
             outcome TEXT NOT NULL, reason TEXT NOT NULL, resolved DOUBLE PRECISION, PRIMARY KEY (endpoint, effect, key, fence));
CREATE TABLE buttress_webhooks_trying (
             endpoint TEXT NOT NULL, effect TEXT NOT NULL, key TEXT NOT NULL, since DOUBLE PRECISION NOT NULL, PRIMARY KEY (endpoint, effect, key));
INSERT INTO buttress_schema (name, version) VALUES ('webhooks', 1) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS buttress_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE buttress_outbox (
             stream TEXT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL, key TEXT NOT NULL, payload BYTEA NOT NULL,
             state TEXT NOT NULL, due DOUBLE PRECISION, attempt BIGINT NOT NULL, doubted BIGINT NOT NULL, fence BIGINT NOT NULL,
             until DOUBLE PRECISION NOT NULL, lane TEXT, note BYTEA, error TEXT, PRIMARY KEY (stream, epoch, seq), UNIQUE (stream, key));
CREATE INDEX buttress_outbox_due ON buttress_outbox (due) WHERE state = 'pending';
CREATE INDEX buttress_outbox_stream_due ON buttress_outbox (stream, due) WHERE state = 'pending';
CREATE INDEX buttress_outbox_unsent ON buttress_outbox (stream, epoch, seq, state) WHERE state <> 'sent';
CREATE INDEX buttress_outbox_lane ON buttress_outbox (stream, lane, epoch, seq) WHERE state = 'pending' AND lane IS NOT NULL;
CREATE TABLE buttress_outbox_stream (
             stream TEXT PRIMARY KEY, epoch BIGINT NOT NULL, next_seq BIGINT NOT NULL);
INSERT INTO buttress_schema (name, version) VALUES ('kernel.outbox', 1) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS buttress_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE TABLE buttress_idempotency (
             namespace TEXT NOT NULL, key TEXT NOT NULL, fingerprint BYTEA NOT NULL, fence BIGINT NOT NULL,
             until DOUBLE PRECISION NOT NULL, intent BYTEA, outcome BYTEA, settled DOUBLE PRECISION,
             PRIMARY KEY (namespace, key));
INSERT INTO buttress_schema (name, version) VALUES ('kernel.idempotency', 1) ON CONFLICT DO NOTHING;
