-- What each role may do; applied after every migration, as a whole. Roles that do not exist (a developer's database) are left out.
-- trading_app: facts may be appended and read, never changed; projections may be changed, never dropped.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['trading_app', 'trading_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public, paper_venue FROM %I', role);
            EXECUTE format('GRANT USAGE ON SCHEMA public, paper_venue TO %I', role);
            EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA public, paper_venue TO %I', role);
        END IF;
    END LOOP;

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trading_readonly') THEN
        REVOKE ALL ON users FROM trading_readonly;
        GRANT SELECT (id, name, role, disabled, created_at, updated_at) ON users TO trading_readonly;
    END IF;

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trading_app') THEN
        GRANT INSERT ON order_events, fills, ledger_transactions, ledger_lines, trade_results, equity_snapshots, audit_events,
            risk_limits, accounts TO trading_app;
        GRANT INSERT, UPDATE ON round_trips TO trading_app;
        GRANT INSERT, UPDATE ON risk_figures TO trading_app;
        GRANT INSERT, UPDATE ON orders, positions, portfolio_cursor, trading_state, trading_state_acks, leases, users, candles TO trading_app;
        GRANT USAGE ON SEQUENCE trading_state_version TO trading_app;
        GRANT INSERT, DELETE ON outbox TO trading_app;
        GRANT INSERT ON reconciliations TO trading_app;
        GRANT INSERT ON paper_venue.accounts, paper_venue.trades TO trading_app;
        GRANT INSERT, UPDATE ON paper_venue.orders, paper_venue.balances, paper_venue.books TO trading_app;
        GRANT INSERT, UPDATE, DELETE ON paper_venue.timers TO trading_app;
        GRANT DELETE ON paper_venue.orders, paper_venue.trades TO trading_app;  -- retention
        GRANT UPDATE ON paper_venue.progress TO trading_app;
        GRANT EXECUTE ON FUNCTION ensure_candle_partition(date), adopt_default_candles(), drop_candle_partition(date) TO trading_app;
    END IF;
END $$;
