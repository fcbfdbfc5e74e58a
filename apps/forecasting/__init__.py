"""Forecasts with SpaceTime state spaces: fit, predict, backtest, evaluate."""

VERBS = {
    "fit": "farfield.apps.forecasting.fit:fit",
    "predict": "farfield.apps.forecasting.predict:predict",
    "backtest": "farfield.apps.forecasting.backtest:backtest",
    "evaluate": "farfield.apps.forecasting.evaluate:evaluate",
}
