"""Every indicator over every candle of real markets: nothing that was said is changed, and each prefix says what the whole had said."""

import numpy as np
import pytest
from smc_candles import FILES, FORMS, fold, parameters, real_candles, rows, same
from trading_platform.smc import Event, Panel


@pytest.mark.parametrize("market", FILES)
@pytest.mark.parametrize("name", FORMS)
def test_no_prefix_of_a_real_market_is_rewritten(name: str, market: str) -> None:
    """Every prefix of the first 600 candles, then one in 997 of the rest and the last."""
    arrays, _ = FORMS[name]
    candles, options = real_candles(market), parameters(name)
    whole = arrays(candles, **options)
    assert len(whole) > 60
    for end in (*range(600), *range(600, len(candles), 997), len(candles)):
        assert same(arrays(candles[:end], **options), whole.as_of(end - 1)), f"prefix of {end} candles"


@pytest.mark.parametrize("market", FILES)
def test_candle_by_candle_a_real_market_says_what_its_columns_say_and_takes_nothing_back(market: str) -> None:
    """Every candle of the file: the stream's last word on each of them is the prefix's."""
    candles = real_candles(market)
    panel = Panel({name: stream(**parameters(name)) for name, (_, stream) in FORMS.items()})
    said: dict[str, dict[int, Event]] = {name: {} for name in FORMS}
    wholes = {name: arrays(candles, **parameters(name)) for name, (arrays, _) in FORMS.items()}
    with_values = [(stream, wholes[name].values) for name, stream in panel.streams.items() if wholes[name].columns]
    for k, row in enumerate(rows(candles)):
        for name, news in panel.on_candle(*row).items():
            assert all(event.known_at == k or k in event[13:] for event in news)
            fold(said[name], news)
        for stream, values in with_values:
            assert np.array_equal(list(stream.values.values()), values[k], equal_nan=True)
    for name, whole in wholes.items():
        assert repr(list(said[name].values())) == repr(whole.rows()), name
    # What a stream keeps is what is open, not what was.
    assert sum(len(stream.open) for stream in panel.streams.values()) < 0.05 * sum(map(len, said.values()))
