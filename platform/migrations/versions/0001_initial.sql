-- The first schema. Facts (order_events, fills, risk_decisions, audit_events) are only ever appended; orders, positions, ledger and
-- cursors are projections that can be rebuilt from them. Money is NUMERIC, finite by domain.

CREATE DOMAIN amount AS numeric CHECK (VALUE > '-Infinity' AND VALUE < 'Infinity');          -- NaN sorts above Infinity
CREATE DOMAIN positive_amount AS numeric CHECK (VALUE > 0 AND VALUE < 'Infinity');
CREATE DOMAIN order_side AS text CHECK (VALUE IN ('buy', 'sell'));

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'APPEND_ONLY: % of % is refused; facts are corrected by appending', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'TR002';
END $$;

-- What is traded ------------------------------------------------------------------------------------------------------------------

CREATE TABLE instruments (
    id             integer PRIMARY KEY CHECK (id > 0),
    symbol         text NOT NULL UNIQUE CHECK (symbol ~ '^[A-Z0-9][A-Z0-9._-]{0,31}$'),
    kind           text NOT NULL CHECK (kind IN ('spot', 'fx', 'metal', 'equity', 'perpetual')),
    base_currency  text NOT NULL,
    quote_currency text NOT NULL,
    price_scale    smallint NOT NULL CHECK (price_scale BETWEEN 0 AND 18),
    size_scale     smallint NOT NULL CHECK (size_scale BETWEEN 0 AND 18),
    tick_size      positive_amount NOT NULL,
    lot_size       positive_amount NOT NULL,
    min_quantity   positive_amount NOT NULL,
    max_quantity   positive_amount NOT NULL,
    min_notional   amount NOT NULL CHECK (min_notional >= 0),
    multiplier     positive_amount NOT NULL DEFAULT 1,
    active         boolean NOT NULL DEFAULT true,
    CHECK (min_quantity <= max_quantity)
);

INSERT INTO instruments
    (id, symbol, kind, base_currency, quote_currency, price_scale, size_scale, tick_size, lot_size, min_quantity, max_quantity, min_notional)
VALUES
    (1, 'BTCUSDT',     'spot',      'BTC', 'USDT', 2, 6, 0.01,    0.000001, 0.000001, 9000,     5),
    (2, 'ETHUSDT',     'spot',      'ETH', 'USDT', 2, 5, 0.01,    0.00001,  0.00001,  9000,     5),
    (3, 'EURUSD',      'fx',        'EUR', 'USD',  5, 2, 0.00001, 1,        1,        50000000, 0),
    (4, 'XAUUSD',      'metal',     'XAU', 'USD',  3, 3, 0.001,   0.001,    0.001,    10000,    0),
    (5, 'SPY',         'equity',    'SPY', 'USD',  4, 4, 0.01,    0.0001,   0.0001,   1000000,  0),
    (6, 'BTCUSD-PERP', 'perpetual', 'BTC', 'USD',  3, 4, 0.5,     0.0001,   0.0001,   9000,     5);

CREATE TABLE candles (
    instrument_id integer NOT NULL,
    interval_s    integer NOT NULL CHECK (interval_s > 0),
    ts_open       timestamptz NOT NULL,
    open          positive_amount NOT NULL,
    high          positive_amount NOT NULL,
    low           positive_amount NOT NULL,
    close         positive_amount NOT NULL,
    volume        amount NOT NULL CHECK (volume >= 0),
    source        text NOT NULL,
    PRIMARY KEY (instrument_id, interval_s, ts_open),
    CHECK (low <= open AND low <= close AND high >= open AND high >= close)
) PARTITION BY RANGE (ts_open);

CREATE TABLE candles_default PARTITION OF candles DEFAULT;

-- Makes the partition of a month (UTC) ahead of its first row. False where it exists, or where the default partition already holds
-- rows of that month: those are moved by maintenance, not by whoever writes candles. Runs with its owner's rights.
CREATE FUNCTION ensure_candle_partition(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    first timestamptz := date_trunc('month', month)::timestamp AT TIME ZONE 'UTC';
    past  timestamptz := (date_trunc('month', month) + interval '1 month')::timestamp AT TIME ZONE 'UTC';
    name  text := 'candles_' || to_char(month, 'YYYY_MM');
BEGIN
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_candle_partition'));
    IF to_regclass('public.' || name) IS NOT NULL
       OR EXISTS (SELECT FROM public.candles_default WHERE ts_open >= first AND ts_open < past) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE public.%I PARTITION OF public.candles FOR VALUES FROM (%L) TO (%L)', name, first, past);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION ensure_candle_partition(date) FROM PUBLIC;

-- Who acts ------------------------------------------------------------------------------------------------------------------------

CREATE TABLE accounts (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    venue      text NOT NULL,
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3,8}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name ~ '^[a-zA-Z0-9][a-zA-Z0-9._@-]{0,63}$'),
    password_hash text NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
    role          text NOT NULL CHECK (role IN ('admin', 'trader', 'analyst', 'readonly')),
    disabled      boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    type       text NOT NULL,
    actor      text NOT NULL,
    subject    text NOT NULL,
    detail     jsonb NOT NULL DEFAULT '{}',
    request_id text
);
CREATE INDEX audit_events_at ON audit_events (at);
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Who leads: one row for everything that must be single. The token rises with every new holder and never falls.
CREATE TABLE leases (
    name        text PRIMARY KEY,
    holder      text,
    token       bigint NOT NULL CHECK (token > 0),
    acquired_at timestamptz NOT NULL,
    renewed_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL
);

-- Orders --------------------------------------------------------------------------------------------------------------------------

CREATE TABLE order_events (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_order_id text NOT NULL,
    order_seq       integer NOT NULL CHECK (order_seq > 0),
    account_id      text NOT NULL REFERENCES accounts (id),
    type            text NOT NULL,
    from_status     text,
    to_status       text NOT NULL,
    data            jsonb NOT NULL DEFAULT '{}',
    actor           text NOT NULL,
    correlation_id  text NOT NULL,
    causation_id    text,
    lease           text NOT NULL,
    fencing_token   bigint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    UNIQUE (client_order_id, order_seq)
);
CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A writer that no longer leads is refused, and one that leads keeps the lease from changing hands until its transaction ends.
CREATE FUNCTION refuse_fenced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    writer record;
BEGIN
    FOR writer IN SELECT DISTINCT lease, fencing_token FROM new_rows LOOP
        PERFORM FROM leases WHERE name = writer.lease AND token = writer.fencing_token AND holder IS NOT NULL FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'FENCED: token % of lease % is not the current one', writer.fencing_token, writer.lease
                USING ERRCODE = 'TR001';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER order_events_fenced AFTER INSERT ON order_events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced();

CREATE TABLE orders (
    client_order_id text PRIMARY KEY CHECK (client_order_id ~ '^[A-Za-z0-9_-]{1,36}$'),
    account_id      text NOT NULL REFERENCES accounts (id),
    instrument_id   integer NOT NULL REFERENCES instruments (id),
    venue           text NOT NULL,
    venue_order_id  text,
    side            order_side NOT NULL,
    type            text NOT NULL,
    time_in_force   text NOT NULL,
    quantity        positive_amount NOT NULL,
    limit_price     positive_amount,
    status          text NOT NULL,
    filled_quantity amount NOT NULL DEFAULT 0 CHECK (filled_quantity >= 0),
    filled_notional amount NOT NULL DEFAULT 0,
    fees            amount NOT NULL DEFAULT 0,
    reason_code     text,
    reason          text,
    strategy        text,
    signal_id       text,
    last_order_seq  integer NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CHECK (filled_quantity <= quantity)
);
CREATE INDEX orders_open ON orders (account_id) WHERE status NOT IN ('FILLED', 'CANCELED', 'REJECTED', 'EXPIRED');
CREATE INDEX orders_created ON orders (account_id, created_at);

CREATE TABLE fills (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id      text NOT NULL REFERENCES accounts (id),
    venue           text NOT NULL,
    venue_trade_id  text NOT NULL,
    client_order_id text NOT NULL,
    instrument_id   integer NOT NULL REFERENCES instruments (id),
    side            order_side NOT NULL,
    quantity        positive_amount NOT NULL,
    price           positive_amount NOT NULL,
    fee             amount NOT NULL,
    fee_currency    text NOT NULL,
    liquidity       text NOT NULL CHECK (liquidity IN ('maker', 'taker')),
    executed_at     timestamptz NOT NULL,
    ts_event_ns     bigint NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (venue, account_id, venue_trade_id)
);
CREATE INDEX fills_account_seq ON fills (account_id, seq);
CREATE INDEX fills_executed ON fills (executed_at);
CREATE TRIGGER fills_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fills
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Written with the event it announces, deleted once it is on the bus.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream     text NOT NULL,
    message    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Portfolio -----------------------------------------------------------------------------------------------------------------------

CREATE TABLE ledger_transactions (
    id          text PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('deposit', 'withdrawal', 'fill', 'funding', 'adjustment')),
    account_id  text NOT NULL REFERENCES accounts (id),
    occurred_at timestamptz NOT NULL,
    fill_seq    bigint UNIQUE REFERENCES fills (seq)
);

CREATE TABLE ledger_lines (
    transaction_id text NOT NULL REFERENCES ledger_transactions (id) ON DELETE CASCADE,
    line_no        smallint NOT NULL CHECK (line_no > 0),
    account_id     text NOT NULL REFERENCES accounts (id),
    book           text NOT NULL CHECK (book IN ('holdings', 'capital', 'exchange', 'fees', 'result')),
    currency       text NOT NULL,
    amount         amount NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (transaction_id, line_no)
);
CREATE INDEX ledger_lines_balance ON ledger_lines (account_id, book, currency);

CREATE FUNCTION refuse_unbalanced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    checked text := coalesce(NEW.transaction_id, OLD.transaction_id);
    wrong record;
BEGIN
    SELECT currency, sum(amount) AS total INTO wrong
      FROM ledger_lines WHERE transaction_id = checked GROUP BY currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'UNBALANCED: the % lines of ledger transaction % sum to %, not zero', wrong.currency, checked, wrong.total
            USING ERRCODE = 'TR003';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_lines_balanced AFTER INSERT OR UPDATE OR DELETE ON ledger_lines
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_unbalanced();

CREATE TABLE positions (
    account_id    text NOT NULL REFERENCES accounts (id),
    instrument_id integer NOT NULL REFERENCES instruments (id),
    quantity      amount NOT NULL,
    average_price amount NOT NULL CHECK (average_price >= 0),
    realised_pnl  amount NOT NULL,
    fees          amount NOT NULL,
    last_fill_seq bigint NOT NULL,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (account_id, instrument_id)
);

-- What each fill did to its position: the trades of the performance figures.
CREATE TABLE trade_results (
    fill_seq        bigint PRIMARY KEY REFERENCES fills (seq),
    account_id      text NOT NULL REFERENCES accounts (id),
    instrument_id   integer NOT NULL REFERENCES instruments (id),
    closed_quantity amount NOT NULL CHECK (closed_quantity >= 0),
    realised_pnl    amount NOT NULL,
    fee             amount NOT NULL,
    currency        text NOT NULL,
    executed_at     timestamptz NOT NULL
);
CREATE INDEX trade_results_executed ON trade_results (account_id, executed_at);

CREATE TABLE portfolio_cursor (
    account_id    text PRIMARY KEY REFERENCES accounts (id),
    last_fill_seq bigint NOT NULL
);

-- Observations, not projections: they depend on the prices of their moment. In the account's currency.
CREATE TABLE equity_snapshots (
    account_id   text NOT NULL REFERENCES accounts (id),
    at           timestamptz NOT NULL,
    equity       amount NOT NULL,
    realised     amount NOT NULL,
    unrealised   amount NOT NULL,
    fees         amount NOT NULL,
    exposure     amount NOT NULL CHECK (exposure >= 0),
    peak_equity  amount NOT NULL,
    max_drawdown amount NOT NULL CHECK (max_drawdown >= 0),
    PRIMARY KEY (account_id, at)
);

-- Risk ----------------------------------------------------------------------------------------------------------------------------

CREATE TABLE risk_limits (
    version               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id            text NOT NULL REFERENCES accounts (id),
    max_order_notional    positive_amount NOT NULL,
    max_position_notional positive_amount NOT NULL,
    max_total_exposure    positive_amount NOT NULL,
    max_orders_per_minute integer NOT NULL CHECK (max_orders_per_minute > 0),
    price_collar          positive_amount NOT NULL CHECK (price_collar < 1),
    max_daily_loss        positive_amount NOT NULL,
    max_data_age_s        positive_amount NOT NULL,
    changed_by            text NOT NULL,
    reason                text NOT NULL,
    changed_at            timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX risk_limits_current ON risk_limits (account_id, version DESC);
CREATE TRIGGER risk_limits_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_limits
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE risk_decisions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_order_id text NOT NULL,
    account_id      text NOT NULL,
    symbol          text NOT NULL,
    accepted        boolean NOT NULL,
    code            text NOT NULL,
    detail          text NOT NULL,
    limits_version  bigint REFERENCES risk_limits (version),
    facts           jsonb NOT NULL,
    decided_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX risk_decisions_order ON risk_decisions (client_order_id);
CREATE INDEX risk_decisions_rate ON risk_decisions (account_id, decided_at) WHERE accepted;
CREATE TRIGGER risk_decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_decisions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The state of trading: one row for all accounts ('*'), and one for an account that differs. The stricter of the two counts.
CREATE TABLE trading_state (
    account_id text PRIMARY KEY,
    state      text NOT NULL CHECK (state IN ('running', 'reducing', 'paused', 'draining', 'stopped', 'emergency_stopped')),
    reason     text NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO trading_state (account_id, state, reason, changed_by) VALUES ('*', 'running', 'installed', 'migration');

-- The paper venue's own books. The engine sees them only through the venue's interface, as it would a real one's. -------------------

CREATE SCHEMA paper_venue;

CREATE TABLE paper_venue.orders (
    venue_order_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id      text NOT NULL,
    client_order_id text NOT NULL,
    symbol          text NOT NULL,
    side            order_side NOT NULL,
    type            text NOT NULL CHECK (type IN ('market', 'limit')),
    quantity        positive_amount NOT NULL,
    limit_price     positive_amount,
    status          text NOT NULL CHECK (status IN ('NEW', 'PARTIALLY_FILLED', 'FILLED', 'CANCELED', 'REJECTED')),
    filled_quantity amount NOT NULL DEFAULT 0,
    reason          text,
    created_at      timestamptz NOT NULL,
    UNIQUE (account_id, client_order_id),
    CHECK (filled_quantity BETWEEN 0 AND quantity),
    CHECK ((type = 'limit') = (limit_price IS NOT NULL))
);
CREATE INDEX paper_orders_open ON paper_venue.orders (account_id) WHERE status IN ('NEW', 'PARTIALLY_FILLED');

CREATE TABLE paper_venue.trades (
    trade_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue_order_id bigint NOT NULL REFERENCES paper_venue.orders (venue_order_id),
    account_id     text NOT NULL,
    price          positive_amount NOT NULL,
    quantity       positive_amount NOT NULL,
    fee            amount NOT NULL,
    fee_currency   text NOT NULL,
    liquidity      text NOT NULL CHECK (liquidity IN ('maker', 'taker')),
    executed_at    timestamptz NOT NULL,
    ts_event_ns    bigint NOT NULL
);
CREATE INDEX paper_trades_account ON paper_venue.trades (account_id, trade_id);
CREATE INDEX paper_trades_order ON paper_venue.trades (venue_order_id);
