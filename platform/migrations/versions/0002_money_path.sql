-- The money path: every kind of order, fenced halts, versioned limits, hedged positions, and the paper venue's own books.

-- Orders ----------------------------------------------------------------------------------------------------------------------------

ALTER TABLE orders
    ADD COLUMN trigger_price positive_amount,
    ADD COLUMN expire_at     timestamptz,
    ADD COLUMN post_only     boolean NOT NULL DEFAULT false,
    ADD COLUMN reduce_only   boolean NOT NULL DEFAULT false,
    ADD COLUMN position_side text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short')),
    ADD COLUMN parent_id     text,
    ADD COLUMN role          text CHECK (role IN ('entry', 'take_profit', 'stop_loss', 'exit', 'slice')),
    ADD COLUMN replaces      text,
    ADD COLUMN flatten       boolean NOT NULL DEFAULT false,
    ADD COLUMN terms         jsonb,
    ADD COLUMN memory        jsonb,
    ADD CHECK ((parent_id IS NULL) = (role IS NULL));
CREATE INDEX orders_children ON orders (parent_id) WHERE parent_id IS NOT NULL;

ALTER TABLE fills ADD COLUMN position_side text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short'));

-- Fills of one instrument, newest first: where the venue's trades are continued.
CREATE INDEX fills_instrument ON fills (account_id, instrument_id, seq DESC);

-- The state of trading --------------------------------------------------------------------------------------------------------------
-- Every change gets a version; whoever sends orders acknowledges the version it obeys, and a halt counts once that has happened.

CREATE SEQUENCE trading_state_version;
ALTER TABLE trading_state
    ADD COLUMN version        bigint NOT NULL DEFAULT nextval('trading_state_version'),
    ADD COLUMN safe_mode      boolean NOT NULL DEFAULT false,   -- signals of strategies are ignored
    ADD COLUMN keep_positions boolean NOT NULL DEFAULT false,   -- draining ends with no open order, whatever is held
    ADD COLUMN flatten        boolean NOT NULL DEFAULT false,   -- in an emergency: whoever leads closes what is held
    ADD COLUMN released_by    text,                             -- who ended the newest emergency, and in which role
    ADD COLUMN released_role  text,
    ADD CHECK ((released_by IS NULL) = (released_role IS NULL));

-- One change at a time, and none while an intent is being committed: the advisory lock 4004 is held exclusively by who changes and
-- shared by who commits intents. So versions are committed in the order of their numbers, what refuse_halted() lets pass was
-- committed before the halt, and a halt waits its turn in a fair queue. Before any row is touched, or two could wait for each other.
CREATE FUNCTION queue_trading_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(4004);
    RETURN NULL;
END $$;
CREATE TRIGGER trading_state_queued BEFORE INSERT OR UPDATE ON trading_state
    FOR EACH STATEMENT EXECUTE FUNCTION queue_trading_state();

-- What is strict stays strict until a person says otherwise; an emergency until an admin releases it, and then it is `stopped`.
CREATE FUNCTION refuse_loosening() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    strictness CONSTANT text[] := ARRAY['running', 'reducing', 'draining', 'paused', 'stopped', 'emergency_stopped'];
    was text := CASE WHEN TG_OP = 'INSERT' THEN 'running' ELSE OLD.state END;
BEGIN
    IF was = 'emergency_stopped' AND NEW.state <> was AND NOT coalesce(
           NEW.state = 'stopped' AND NEW.released_by = NEW.changed_by AND NEW.released_by LIKE 'user:%'
           AND NEW.released_role = 'admin', false) THEN
        RAISE EXCEPTION 'LATCHED: an emergency stop is released to stopped, by an admin who says so' USING ERRCODE = 'TR005';
    END IF;
    IF (array_position(strictness, NEW.state) < array_position(strictness, was)
        OR TG_OP = 'UPDATE' AND OLD.safe_mode AND NOT NEW.safe_mode) AND NEW.changed_by NOT LIKE 'user:%' THEN
        RAISE EXCEPTION 'LATCHED: % may make trading stricter than %, only a person less strict', NEW.changed_by, was
            USING ERRCODE = 'TR005';
    END IF;
    IF NEW.state = 'emergency_stopped' THEN
        NEW.released_by := NULL;
        NEW.released_role := NULL;
    END IF;
    NEW.version := nextval('trading_state_version');
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER trading_state_latched BEFORE INSERT OR UPDATE ON trading_state
    FOR EACH ROW EXECUTE FUNCTION refuse_loosening();

CREATE TABLE trading_state_acks (
    account_id    text PRIMARY KEY REFERENCES accounts (id),
    version       bigint NOT NULL,             -- of the newest change obeyed
    in_flight     integer NOT NULL CHECK (in_flight >= 0),   -- requests begun before it and not yet certain
    lease         text NOT NULL,
    fencing_token bigint NOT NULL,
    acked_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- No order is committed for sending while trading is halted. An emergency's closing orders (flatten) pass.
CREATE FUNCTION refuse_halted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT DISTINCT account_id FROM new_rows
         WHERE type = 'submitting' AND NOT coalesce((data->>'flatten')::boolean, false)
    LOOP
        PERFORM pg_advisory_xact_lock_shared(4004);
        IF EXISTS (SELECT FROM trading_state WHERE account_id IN ('*', wanted.account_id)
                      AND state IN ('paused', 'stopped', 'emergency_stopped')) THEN
            RAISE EXCEPTION 'HALTED: trading of account % is halted', wanted.account_id USING ERRCODE = 'TR004';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER order_events_halted AFTER INSERT ON order_events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_halted();

-- Risk ------------------------------------------------------------------------------------------------------------------------------
-- A decision is kept in the event of the order it was about, so that neither exists without the other.

DROP TABLE risk_decisions;
CREATE VIEW risk_decisions AS
    SELECT seq AS id, client_order_id, account_id, data->'risk'->>'symbol' AS symbol, (data->'risk'->>'accepted')::boolean AS accepted,
           data->'risk'->>'code' AS code, data->'risk'->>'detail' AS detail, (data->'risk'->>'limits_version')::bigint AS limits_version,
           data->'risk'->'facts' AS facts, occurred_at AS decided_at
      FROM order_events WHERE type IN ('submitting', 'denied', 'held') AND data ? 'risk';

-- Reconciliation --------------------------------------------------------------------------------------------------------------------

CREATE TABLE reconciliations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts (id),
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind       text NOT NULL CHECK (kind IN ('start', 'running', 'on_demand')),
    identical  boolean NOT NULL,
    detail     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX reconciliations_newest ON reconciliations (account_id, id DESC);

-- Portfolio -------------------------------------------------------------------------------------------------------------------------

ALTER TABLE positions ADD COLUMN position_side text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short'));
ALTER TABLE positions DROP CONSTRAINT positions_pkey;
ALTER TABLE positions ADD PRIMARY KEY (account_id, instrument_id, position_side);
ALTER TABLE trade_results ADD COLUMN position_side text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short'));

-- The paper venue's own books -------------------------------------------------------------------------------------------------------
-- A venue of its own, in a service of its own: nobody else reads this schema.

DROP TABLE paper_venue.trades;
DROP TABLE paper_venue.orders;
