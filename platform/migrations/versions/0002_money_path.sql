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

-- The engine writes these tables under the account's lease, with accounts and instruments it read from their tables; looking both up
-- again for every row doubles what an order costs. Nobody may remove an account or an instrument that something refers to.
ALTER TABLE order_events DROP CONSTRAINT order_events_account_id_fkey;
ALTER TABLE orders DROP CONSTRAINT orders_account_id_fkey, DROP CONSTRAINT orders_instrument_id_fkey;
ALTER TABLE fills DROP CONSTRAINT fills_account_id_fkey, DROP CONSTRAINT fills_instrument_id_fkey;
CREATE TRIGGER accounts_stay BEFORE DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- The lots of Binance's own LOT_SIZE filters: an order in a finer one is refused there. Ticks keep their scale, their sizes are finer.
UPDATE instruments SET lot_size = 0.00001, min_quantity = 0.00001 WHERE symbol = 'BTCUSDT';
UPDATE instruments SET lot_size = 0.0001, min_quantity = 0.0001 WHERE symbol = 'ETHUSDT';
CREATE TRIGGER instruments_stay BEFORE DELETE OR TRUNCATE ON instruments FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One row a commit: its events in their order, and the numbers they got. What a release before this one left has another shape. The
-- messages are text here: they are copied to the bus, and nobody asks the database what they say.
DELETE FROM outbox;
ALTER TABLE outbox ADD COLUMN seqs bigint[] NOT NULL, ALTER COLUMN message TYPE text;

-- What the engine's journal commits: the events, one entry of the outbox, the orders that are new, what became of older ones, and the
-- fills; what there is none of is NULL. Rows are numbered in the order they are given; an execution already recorded makes all of it
-- fail, and so does a change of an order that is not there. A function, because its plans are made once a connection: planning costs as
-- much as writing one order, and the engine commits hundreds of times a second. They are made before anybody knows how large the tables
-- become, so a plan that reads all orders is out of the question.
CREATE FUNCTION commit_orders(the_account text, the_lease text, the_token bigint, the_stream text, the_events json, the_messages text,
                              the_orders json, the_changes json, the_fills json) RETURNS void LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    changed bigint;
BEGIN
    WITH events AS (
        INSERT INTO order_events (client_order_id, order_seq, account_id, type, from_status, to_status, data, actor, correlation_id,
                                  causation_id, lease, fencing_token, occurred_at)
        SELECT id, n, the_account, type, before, after, data, actor, correlation, causation, the_lease, the_token, at
          FROM json_to_recordset(the_events) AS given (id text, n integer, type text, before text, after text, data jsonb, actor text,
                                                       correlation text, causation text, at timestamptz)
        RETURNING seq
    )
    INSERT INTO outbox (stream, seqs, message) SELECT the_stream, array_agg(seq ORDER BY seq), the_messages FROM events;
    IF the_orders IS NOT NULL THEN
        INSERT INTO orders (client_order_id, account_id, instrument_id, venue, venue_order_id, side, type, time_in_force, quantity,
                            limit_price, trigger_price, expire_at, post_only, reduce_only, position_side, parent_id, role, replaces,
                            flatten, terms, memory, status, filled_quantity, filled_notional, fees, reason_code, reason, strategy,
                            signal_id, last_order_seq, created_at, updated_at)
        SELECT client_order_id, account_id, instrument_id, venue, venue_order_id, side, type, time_in_force, quantity,
               limit_price, trigger_price, expire_at, post_only, reduce_only, position_side, parent_id, role, replaces,
               flatten, terms, memory, status, filled_quantity, filled_notional, fees, reason_code, reason, strategy,
               signal_id, last_order_seq, created_at, updated_at
          FROM json_populate_recordset(NULL::orders, the_orders);
    END IF;
    IF the_changes IS NOT NULL THEN
        UPDATE orders
           SET venue_order_id = given.venue_order_id, status = given.status, filled_quantity = given.filled_quantity,
               filled_notional = given.filled_notional, fees = given.fees, reason_code = given.reason_code, reason = given.reason,
               memory = given.memory, last_order_seq = given.last_order_seq, updated_at = given.updated_at
          FROM json_to_recordset(the_changes) AS given (client_order_id text, venue_order_id text, status text, filled_quantity numeric,
                                                        filled_notional numeric, fees numeric, reason_code text, reason text,
                                                        memory jsonb, last_order_seq integer, updated_at timestamptz)
         WHERE orders.client_order_id = given.client_order_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> json_array_length(the_changes) THEN
            RAISE EXCEPTION 'UNKNOWN_ORDER: of % orders that changed % are there', json_array_length(the_changes), changed
                USING ERRCODE = 'TR006';
        END IF;
    END IF;
    IF the_fills IS NOT NULL THEN
        INSERT INTO fills (account_id, venue, venue_trade_id, client_order_id, instrument_id, side, position_side, quantity, price, fee,
                           fee_currency, liquidity, executed_at, ts_event_ns)
        SELECT the_account, venue, trade_id, id, instrument_id, side, position_side, quantity, price, fee, fee_currency, liquidity,
               executed_at, ts_event_ns
          FROM json_to_recordset(the_fills) AS given (venue text, trade_id text, id text, instrument_id integer, side order_side,
                                                      position_side text, quantity numeric, price numeric, fee numeric,
                                                      fee_currency text, liquidity text, executed_at timestamptz, ts_event_ns bigint);
    END IF;
END $$;

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

-- Limits of an account, or of all accounts together ('*'); what is NULL is not limited. Shares are fractions of the equity.
ALTER TABLE risk_limits
    DROP CONSTRAINT risk_limits_account_id_fkey,
    ADD COLUMN max_orders_per_second  integer CHECK (max_orders_per_second > 0),
    ADD COLUMN max_daily_loss_share   positive_amount CHECK (max_daily_loss_share <= 1),
    ADD COLUMN max_weekly_loss        positive_amount,
    ADD COLUMN max_weekly_loss_share  positive_amount CHECK (max_weekly_loss_share <= 1),
    ADD COLUMN max_monthly_loss       positive_amount,
    ADD COLUMN max_monthly_loss_share positive_amount CHECK (max_monthly_loss_share <= 1),
    ADD COLUMN max_drawdown           positive_amount CHECK (max_drawdown <= 1),
    ADD COLUMN max_leverage           positive_amount,
    ADD COLUMN max_concentration      positive_amount,
    ADD COLUMN max_consecutive_losses integer CHECK (max_consecutive_losses > 0),
    ADD COLUMN max_reject_share       positive_amount CHECK (max_reject_share <= 1),
    ADD COLUMN max_var                positive_amount CHECK (max_var <= 1),
    ADD CHECK (account_id ~ '^([*]|[a-z0-9][a-z0-9-]{0,31})$');

-- Where each account stands, and all together ('*'), as the leading risk service saw it last: observations, replaced every second.
-- What is NULL is unknown, `reasons` say why. `published` is what those who judge orders read (domain/figures.py).
CREATE TABLE risk_figures (
    account_id         text PRIMARY KEY,
    computed_at        timestamptz NOT NULL,
    currency           text NOT NULL,
    capital            amount,                 -- paid in less what was taken out
    carry              amount,                 -- what came or went without a trade
    equity             amount,
    exposure           amount,                 -- were everything filled that works
    realised           amount,
    unrealised         amount,
    fees               amount,
    equity_day         amount,                 -- where the periods began, with what was paid in since
    equity_week        amount,
    equity_month       amount,
    peak_equity        amount,
    max_drawdown       amount,
    consecutive_losses integer,
    reject_share       amount NOT NULL DEFAULT 0,
    var_95             amount,                 -- one day
    var_99             amount,
    expected_shortfall amount,                 -- one day, the mean of what lies beyond var_95
    breached           text[] NOT NULL DEFAULT '{}',   -- limits of the breakers that it stood beyond
    reasons            text[] NOT NULL DEFAULT '{}',
    published          jsonb NOT NULL,
    lease              text NOT NULL,
    fencing_token      bigint NOT NULL
);
-- Protective orders that were filled: how often stops are hit.
CREATE INDEX orders_exits ON orders (account_id, updated_at) WHERE role IN ('take_profit', 'stop_loss') AND status = 'FILLED';

CREATE TRIGGER risk_figures_made_fenced AFTER INSERT ON risk_figures
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced();
CREATE TRIGGER risk_figures_fenced AFTER UPDATE ON risk_figures
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced();

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
-- The projections get columns they did not have: they are made again from the fills, by whoever projects, on its next turn.

DROP TRIGGER ledger_lines_balanced ON ledger_lines;
DROP FUNCTION refuse_unbalanced;
DELETE FROM ledger_transactions WHERE kind = 'fill';
DELETE FROM trade_results;
DELETE FROM positions;
DELETE FROM portfolio_cursor;

ALTER TABLE positions ADD COLUMN position_side text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short'));
ALTER TABLE positions DROP CONSTRAINT positions_pkey;
ALTER TABLE positions ADD PRIMARY KEY (account_id, instrument_id, position_side);
ALTER TABLE positions
    ADD COLUMN residue    amount NOT NULL DEFAULT 0,      -- signed cost beyond quantity × average_price
    ADD COLUMN other_fees jsonb NOT NULL DEFAULT '{}';    -- by currency: fees the quote currency does not value, not in `fees`

-- What a fill's row says of account and instrument needs no second proof here: it refers to the fill.
ALTER TABLE trade_results
    DROP CONSTRAINT trade_results_account_id_fkey,
    DROP CONSTRAINT trade_results_instrument_id_fkey,
    ADD COLUMN position_side      text NOT NULL DEFAULT 'net' CHECK (position_side IN ('net', 'long', 'short')),
    ADD COLUMN volume             amount NOT NULL CHECK (volume > 0),   -- value of the fill; `fee` is in the same currency
    ADD COLUMN other_fee          amount,                               -- a fee the fill's price does not value
    ADD COLUMN other_fee_currency text,
    ADD COLUMN decision_price     positive_amount,                      -- seen when the order was decided; NULL: none is known
    ADD COLUMN slippage           amount,                               -- what it cost more than at that price
    ADD CHECK ((other_fee IS NULL) = (other_fee_currency IS NULL)),
    ADD CHECK ((decision_price IS NULL) = (slippage IS NULL));

-- From flat to flat; the open one of each position has no end yet. In the instrument's quote currency.
CREATE TABLE round_trips (
    account_id    text NOT NULL REFERENCES accounts (id),
    instrument_id integer NOT NULL REFERENCES instruments (id),
    position_side text NOT NULL CHECK (position_side IN ('net', 'long', 'short')),
    opened_seq    bigint NOT NULL REFERENCES fills (seq),
    closed_seq    bigint,
    direction     text NOT NULL CHECK (direction IN ('long', 'short')),
    opened_at     timestamptz NOT NULL,
    closed_at     timestamptz,
    peak_quantity positive_amount NOT NULL,
    volume        positive_amount NOT NULL,
    realised_pnl  amount NOT NULL,                        -- before fees
    fees          amount NOT NULL,
    other_fees    jsonb NOT NULL DEFAULT '{}',
    fills         integer NOT NULL CHECK (fills > 0),
    currency      text NOT NULL,
    PRIMARY KEY (account_id, instrument_id, position_side, opened_seq),
    CHECK ((closed_seq IS NULL) = (closed_at IS NULL))
);
CREATE UNIQUE INDEX round_trips_open ON round_trips (account_id, instrument_id, position_side) WHERE closed_seq IS NULL;
CREATE INDEX round_trips_closed ON round_trips (account_id, closed_seq) WHERE closed_seq IS NOT NULL;
CREATE INDEX round_trips_closed_at ON round_trips (account_id, closed_at) WHERE closed_seq IS NOT NULL;

-- Money that came or went without a fill is kept apart from P&L and from what was paid in. At the end of a day equity less capital
-- is what was earned.
ALTER TABLE equity_snapshots
    ADD COLUMN carry   amount NOT NULL DEFAULT 0,         -- funding, charges and corrections
    ADD COLUMN capital amount GENERATED ALWAYS AS (equity - realised - unrealised + fees - carry) STORED;

-- Whoever books something without a fill says who and why; its id makes it once (portfolio/transfers).
ALTER TABLE ledger_transactions DROP CONSTRAINT ledger_transactions_kind_check;
ALTER TABLE ledger_transactions
    ADD COLUMN actor         text,
    ADD COLUMN reason        text,
    ADD COLUMN instrument_id integer REFERENCES instruments (id),       -- what funding was for
    ADD CHECK (kind IN ('deposit', 'withdrawal', 'fill', 'funding', 'fee', 'adjustment')),
    ADD CHECK ((kind = 'fill') = (fill_seq IS NOT NULL)),
    ADD UNIQUE (id, account_id);
CREATE INDEX ledger_transfers ON ledger_transactions (account_id, occurred_at) WHERE kind <> 'fill';

-- A line belongs to its transaction's account, and to no other.
ALTER TABLE ledger_lines
    DROP CONSTRAINT ledger_lines_transaction_id_fkey,
    DROP CONSTRAINT ledger_lines_account_id_fkey,
    DROP CONSTRAINT ledger_lines_book_check,
    ADD FOREIGN KEY (transaction_id, account_id) REFERENCES ledger_transactions (id, account_id) ON DELETE CASCADE,
    ADD CHECK (book IN ('holdings', 'capital', 'exchange', 'fees', 'result', 'carry'));
DROP INDEX ledger_lines_balance;
CREATE INDEX ledger_lines_paid ON ledger_lines (account_id, book, currency) WHERE book IN ('capital', 'carry');

-- The sums of the lines, kept by the database itself: nobody else may write them. Holdings are read here, not by adding up lines.
CREATE TABLE ledger_balances (
    account_id text NOT NULL REFERENCES accounts (id),
    book       text NOT NULL,
    currency   text NOT NULL,
    amount     amount NOT NULL,
    PRIMARY KEY (account_id, book, currency)
);
INSERT INTO ledger_balances SELECT account_id, book, currency, sum(amount) FROM ledger_lines GROUP BY 1, 2, 3;

-- Every statement that adds or removes lines must balance by itself, in each transaction and currency. So every transaction does, at
-- every moment: lines are never changed, and a line added later would have to bring its counterpart.
CREATE FUNCTION book_lines() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    wrong record;
    sign  integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    SELECT transaction_id, currency, sum(amount) AS total INTO wrong
      FROM changed GROUP BY transaction_id, currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'UNBALANCED: the % lines of ledger transaction % sum to %, not zero', wrong.currency, wrong.transaction_id,
            wrong.total USING ERRCODE = 'TR003';
    END IF;
    IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM changed JOIN public.ledger_transactions t ON t.id = transaction_id
                                     WHERE t.kind <> 'fill') THEN
        RAISE EXCEPTION 'APPEND_ONLY: % of ledger_lines is refused; what no fill tells is corrected by an adjustment', TG_OP
            USING ERRCODE = 'TR002';
    END IF;
    INSERT INTO public.ledger_balances AS b (account_id, book, currency, amount)
    SELECT account_id, book, currency, sum(amount) * sign FROM changed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (account_id, book, currency) DO UPDATE SET amount = b.amount + EXCLUDED.amount;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_lines_booked AFTER INSERT ON ledger_lines
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION book_lines();
CREATE TRIGGER ledger_lines_unbooked AFTER DELETE ON ledger_lines
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION book_lines();
CREATE TRIGGER ledger_lines_fixed BEFORE UPDATE OR TRUNCATE ON ledger_lines
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_transactions_fixed BEFORE UPDATE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER ledger_transfers_kept BEFORE DELETE ON ledger_transactions
    FOR EACH ROW WHEN (OLD.kind <> 'fill') EXECUTE FUNCTION refuse_change();

-- Zero in each currency, always.
CREATE VIEW ledger_totals AS SELECT currency, sum(amount) AS total FROM ledger_balances GROUP BY currency;

-- The paper venue's own books -------------------------------------------------------------------------------------------------------
-- A venue of its own, in a service of its own: nobody else reads this schema.

DROP TABLE paper_venue.trades;
DROP TABLE paper_venue.orders;

-- One row: up to where the market was matched, and by whom. Part of every commit, so that a venue that lost its lease writes nothing.
CREATE TABLE paper_venue.progress (
    single          boolean PRIMARY KEY DEFAULT true CHECK (single),
    stream_position text,                      -- newest entry of md:ticks that was matched
    gaps            integer NOT NULL DEFAULT 0,   -- times the stream no longer had what was missed
    lease           text NOT NULL,
    fencing_token   bigint NOT NULL,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO paper_venue.progress (lease, fencing_token) VALUES ('paper-venue', 0);
CREATE TRIGGER paper_progress_fenced AFTER UPDATE ON paper_venue.progress
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced();

CREATE TABLE paper_venue.accounts (
    account_id text PRIMARY KEY,
    opening    jsonb NOT NULL,                 -- what was paid in when it was first seen: currency to amount
    opened_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Of a perpetual, `free` is the position (below zero: short) and `cost` what it was entered at, signed like it.
CREATE TABLE paper_venue.balances (
    account_id text NOT NULL REFERENCES paper_venue.accounts (account_id),
    asset      text NOT NULL,
    free       amount NOT NULL,
    locked     amount NOT NULL CHECK (locked >= 0),
    cost       amount NOT NULL DEFAULT 0,
    PRIMARY KEY (account_id, asset)
);

-- Words and statuses are Binance's; times are milliseconds, as its API has them.
CREATE TABLE paper_venue.orders (
    order_id         bigint PRIMARY KEY,
    account_id       text NOT NULL REFERENCES paper_venue.accounts (account_id),
    client_order_id  text NOT NULL CHECK (client_order_id ~ '^[.A-Z:/a-z0-9_-]{1,36}$'),
    instrument_id    integer NOT NULL REFERENCES instruments (id),
    side             text NOT NULL CHECK (side IN ('BUY', 'SELL')),
    type             text NOT NULL CHECK (type IN ('LIMIT', 'MARKET', 'STOP_LOSS', 'STOP_LOSS_LIMIT', 'TAKE_PROFIT', 'TAKE_PROFIT_LIMIT',
                                                   'LIMIT_MAKER')),
    time_in_force    text NOT NULL CHECK (time_in_force IN ('GTC', 'IOC', 'FOK')),
    quantity         positive_amount NOT NULL,
    quote_quantity   amount NOT NULL,          -- 0 where the order was not stated in money
    price            amount NOT NULL,          -- 0 where there is none
    stop_price       amount NOT NULL,
    iceberg_quantity amount NOT NULL,
    status           text NOT NULL CHECK (status IN ('NEW', 'PARTIALLY_FILLED', 'FILLED', 'CANCELED', 'REJECTED', 'EXPIRED')),
    executed         amount NOT NULL CHECK (executed BETWEEN 0 AND quantity),
    executed_quote   amount NOT NULL CHECK (executed_quote >= 0),
    bound            amount NOT NULL,          -- price funds are held at
    reserved         amount NOT NULL CHECK (reserved >= 0),
    working          boolean NOT NULL,
    reason           text,
    created_ms       bigint NOT NULL,
    updated_ms       bigint NOT NULL,
    working_ms       bigint NOT NULL,          -- -1 until it is in the book
    -- Where an open order stands in its book: time priority, what is queued before it (unknown: null), of an iceberg what is shown.
    seniority        bigint NOT NULL,
    queue_ahead      amount CHECK (queue_ahead >= 0),
    triggered        boolean NOT NULL,
    slice_left       amount CHECK (slice_left >= 0),
    UNIQUE (account_id, client_order_id)
);
CREATE INDEX paper_orders_open ON paper_venue.orders (order_id) WHERE status IN ('NEW', 'PARTIALLY_FILLED');
CREATE INDEX paper_orders_history ON paper_venue.orders (account_id, instrument_id, order_id);

CREATE TABLE paper_venue.trades (
    instrument_id integer NOT NULL REFERENCES instruments (id),
    trade_id      bigint NOT NULL CHECK (trade_id > 0),   -- counted by instrument, as Binance does
    order_id      bigint NOT NULL REFERENCES paper_venue.orders (order_id),
    account_id    text NOT NULL,
    buyer         boolean NOT NULL,
    maker         boolean NOT NULL,
    price         positive_amount NOT NULL,
    quantity      positive_amount NOT NULL,
    quote         positive_amount NOT NULL,
    fee           amount NOT NULL,
    fee_asset     text NOT NULL,
    executed_ms   bigint NOT NULL,
    ts_event_ns   bigint NOT NULL,
    PRIMARY KEY (instrument_id, trade_id)
);
CREATE INDEX paper_trades_account ON paper_venue.trades (account_id, instrument_id, trade_id);
CREATE INDEX paper_trades_order ON paper_venue.trades (order_id);

-- What a book remembers of the market: prices, sizes, and what was already taken of them.
CREATE TABLE paper_venue.books (
    instrument_id integer PRIMARY KEY REFERENCES instruments (id),
    market        jsonb NOT NULL
);

-- Dead-man timers; `*` is all symbols of the account.
CREATE TABLE paper_venue.timers (
    account_id   text NOT NULL REFERENCES paper_venue.accounts (account_id),
    symbol       text NOT NULL,
    countdown_ms bigint NOT NULL CHECK (countdown_ms > 0),
    due_ms       bigint NOT NULL,
    PRIMARY KEY (account_id, symbol)
);
