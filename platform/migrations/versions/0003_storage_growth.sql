-- Maintenance of the candle partitions, for a role that may not change tables itself. Each function runs with its owner's rights, does
-- one month in one transaction, and gives up rather than waits when the tables are in use.

-- Moves the rows of the oldest month found in the default partition into a partition of their own. The month, or null where the default
-- partition is empty.
CREATE FUNCTION adopt_default_candles() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s' AS $$
DECLARE
    month date;
    first timestamptz;
    past  timestamptz;
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_candle_partition'));
    SELECT date_trunc('month', min(ts_open) AT TIME ZONE 'UTC')::date INTO month FROM public.candles_default;
    IF month IS NULL THEN
        RETURN NULL;
    END IF;
    first := month::timestamp AT TIME ZONE 'UTC';
    past := (month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
    name := 'candles_' || to_char(month, 'YYYY_MM');
    -- Nobody adds to the month while it moves.
    LOCK TABLE public.candles IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.candles INCLUDING ALL)', name);
    EXECUTE format('WITH moved AS (DELETE FROM public.candles_default WHERE ts_open >= %L AND ts_open < %L RETURNING *)'
                   ' INSERT INTO public.%I SELECT * FROM moved', first, past, name);
    EXECUTE format('ALTER TABLE public.candles ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', name, first, past);
    RETURN name;
END $$;

-- Detaches and drops the oldest partition whose month is wholly before that day (UTC). Its name, or null where none is that old. Refuses
-- a day of the last 31: what is current is not dropped by mistake.
CREATE FUNCTION drop_candle_partition(keep_from date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s' AS $$
DECLARE
    name text;
BEGIN
    IF keep_from IS NULL OR keep_from > (clock_timestamp() AT TIME ZONE 'UTC')::date - 31 THEN
        RAISE EXCEPTION 'candles are kept for at least 31 days, asked to keep from %', keep_from USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_candle_partition'));
    SELECT c.relname INTO name
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'public.candles'::regclass AND c.relname ~ '^candles_[0-9]{4}_[0-9]{2}$'
       AND to_date(substr(c.relname, 9), 'YYYY_MM') + interval '1 month' <= keep_from
     ORDER BY c.relname LIMIT 1;
    IF name IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE public.candles DETACH PARTITION public.%I', name);
    EXECUTE format('DROP TABLE public.%I', name);
    RETURN name;
END $$;

REVOKE ALL ON FUNCTION adopt_default_candles(), drop_candle_partition(date) FROM PUBLIC;
