"""A fitted forecaster in a file: one zip of JSON (settings, indices) and safetensors (every array and weight)."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor

from farfield.apps.forecasting.bank import Smoothers
from farfield.apps.forecasting.conformal import Conformal
from farfield.apps.forecasting.covariates import Effect
from farfield.apps.forecasting.scale import Scale
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.stack import Stack
from farfield.apps.training.atomic import atomic_file
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.forecasting.forecaster import SpaceTimeForecaster

FORMAT, VERSION = "farfield-forecaster", 1
SETTINGS, WEIGHTS = "forecaster.json", "model.safetensors"
NETWORK, STREAM = "network.", "stream."


def pack(model: SeriesModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as plain values and arrays."""
    arrays = {
        **{f"effect.{name}": value for name, value in vars(model.effect).items()},
        **{
            f"smoothers.{name}": getattr(model.stack.smoothers, name)
            for name in ("gains", "level", "trend", "seasonal")
        },
        **{f"stack.{name}": getattr(model.stack, name) for name in ("taps", "weights", "recent")},
        **{f"conformal.{name}": getattr(model.conformal, name) for name in ("static", "shift", "pending", "issued")},
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
    settings: dict[str, Any] = {
        "plan": asdict(model.plan),
        "scale": asdict(model.scale),
        "season": model.stack.smoothers.season,
        "clock": model.stack.smoothers.clock,
        "limit": model.stack.limit,
        "judged": model.conformal.clock,
        "count": model.count,
        "network": None,
    }
    if model.network is not None:
        settings["network"] = model.network.settings()
        weights = model.network.net.state_dict()
        assert model.stream is not None
        settings["stream"], states = model.stream.pack()
        tensors |= {STREAM + name: value.clone() for name, value in states.items()}
        tensors |= {NETWORK + name: value.contiguous().clone() for name, value in weights.items()}
    return settings, tensors


def unpack(settings: dict[str, Any], tensors: dict[str, Tensor]) -> SeriesModel:
    """The model that `pack` took apart."""

    def group(name: str) -> dict[str, Any]:
        return {k.removeprefix(name): v.numpy().copy() for k, v in tensors.items() if k.startswith(name)}

    network = stream = None
    if settings["network"] is not None:
        from farfield.apps.forecasting.network import Network
        from farfield.apps.forecasting.stream import Stream

        weights, states = (
            {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)} for name in (NETWORK, STREAM)
        )
        network = Network.of(settings["network"], weights)
        stream = Stream.of(network.net, settings["stream"], states)
    smoothers = Smoothers(season=settings["season"], clock=settings["clock"], **group("smoothers."))
    return SeriesModel(
        Plan(**settings["plan"]),
        Scale(**settings["scale"]),
        Effect(**group("effect.")),
        Stack(smoothers=smoothers, limit=settings["limit"], **group("stack.")),
        network,
        Conformal(clock=settings["judged"], **group("conformal.")),
        settings["count"],
        stream,
    )


def write_forecaster(forecaster: SpaceTimeForecaster, path: str | Path) -> zipfile.ZipFile:
    """Write `path`.zip in one step.

    Raises: UserError: not fitted.
    """
    if not forecaster.is_fitted:
        raise UserError("save: the forecaster is not fitted; call fit first, or save() without a path")
    body, tensors = _taken_apart(forecaster, "")
    path = Path(path)
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(SETTINGS, json.dumps({"format": FORMAT, "version": VERSION, **body}, indent=1))
        archive.writestr(WEIGHTS, save(tensors))
        # sktime.base.load asks for the class, and only for it, in this form; nothing here reads it.
        archive.writestr("_metadata", pickle.dumps(type(forecaster)))
    return zipfile.ZipFile(path)


def read_forecaster(kind: type[SpaceTimeForecaster], path: str | Path) -> SpaceTimeForecaster:
    """What `write_forecaster` wrote.

    Raises: UserError: no such file, or it is not one of these.
    """
    path = Path(path)
    path = path if path.exists() or path.suffix == ".zip" else path.with_name(path.name + ".zip")
    try:
        with zipfile.ZipFile(path) as archive:
            body = json.loads(archive.read(SETTINGS))
            tensors = load(archive.read(WEIGHTS))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; give the run folder of a fit, or what save wrote") from error
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no forecaster ({error}); give what fit or save wrote") from error
    if body.get("format") != FORMAT or body.get("version", 0) > VERSION:
        raise UserError(f"{path} has format {body.get('format')} version {body.get('version')}: upgrade farfield")
    return _put_together(kind, body, tensors, "")


def _taken_apart(forecaster: SpaceTimeForecaster, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A forecaster as plain values and arrays; one fitted to several series holds a forecaster for each."""
    params = forecaster.get_params(deep=False)
    if isinstance(params["random_state"], np.random.RandomState):
        params["random_state"] = None
    fh = forecaster._fh
    body: dict[str, Any] = {
        "params": params,
        "cutoff": index_to_json(forecaster._cutoff),
        "fh": None if fh is None else {"relative": fh.is_relative, "steps": index_to_json(fh.to_pandas())},
        "mtype": forecaster._y_mtype_last_seen,
    }
    if not forecaster._is_vectorized:
        model, arrays = pack(forecaster.model_)
        body |= {"model": model, "columns": forecaster.columns_, "name": forecaster.name_}
        body |= {"last": index_to_json(forecaster.last_), "variables": list(forecaster._get_varnames())}
        return body, {prefix + name: value for name, value in arrays.items()}
    shown = forecaster._yvec.X_multiindex
    levels = list(range(shown.index.nlevels - 1))
    shown = shown.groupby(level=levels).tail(1) if levels else shown.tail(1)
    body["variables"] = list(shown.columns)
    body["names"] = list(shown.index.names)
    body["instances"] = [list(row[:-1]) for row in shown.index] if levels else None
    body["times"] = index_to_json(shown.index.get_level_values(-1))
    grid = forecaster.forecasters_
    body["rows"] = [list(i) if isinstance(i, tuple) else i for i in grid.index]
    body["members"] = []
    tensors: dict[str, Tensor] = {}
    for i in range(grid.shape[0]):
        body["members"].append([])
        for j in range(grid.shape[1]):
            said, arrays = _taken_apart(grid.iloc[i, j], f"{prefix}{i}.{j}.")
            body["members"][-1].append(said)
            tensors |= arrays
    return body, tensors


def _put_together(
    kind: type[SpaceTimeForecaster], body: dict[str, Any], tensors: dict[str, Tensor], prefix: str
) -> SpaceTimeForecaster:
    """What `_taken_apart` took; sktime's base class notes the container again by being shown the last time points."""
    from sktime.datatypes import convert_to
    from sktime.forecasting.base import ForecastingHorizon

    forecaster = kind(**body["params"])
    cutoff = index_from_json(body["cutoff"])
    several = "members" in body
    if several:
        index = index_from_json(body["times"])
        if body["instances"] is not None:
            rows = [(*who, when) for who, when in zip(body["instances"], index, strict=True)]
            index = pd.MultiIndex.from_tuples(rows, names=body["names"])
        shown: Any = pd.DataFrame(0.0, index=index, columns=body["variables"])
        native = body["mtype"] in ("pd.DataFrame", "pd-multiindex", "pd_multiindex_hier")
    else:
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        forecaster.model_ = unpack(body["model"], own)
        forecaster.columns_, forecaster.name_ = body["columns"], body["name"]
        forecaster.last_ = index_from_json(body["last"])
        shown = pd.Series([0.0], index=cutoff, name=body["name"])
        native = body["mtype"] == "pd.Series"
        if body["mtype"] == "pd.DataFrame":
            shown, native = shown.to_frame(body["variables"][0]), True
    _, inner = forecaster._check_X_y(X=None, y=shown if native else convert_to(shown, body["mtype"]))
    forecaster._set_cutoff(cutoff)
    if several:
        forecaster._yvec = inner
        grid = [
            [_put_together(kind, said, tensors, f"{prefix}{i}.{j}.") for j, said in enumerate(row)]
            for i, row in enumerate(body["members"])
        ]
        tuples = bool(body["rows"]) and isinstance(body["rows"][0], list)
        rows = pd.MultiIndex.from_tuples([tuple(i) for i in body["rows"]]) if tuples else pd.Index(body["rows"])
        forecaster.forecasters_ = pd.DataFrame(grid, index=rows, columns=body["variables"])
    if body["fh"] is not None:
        steps = index_from_json(body["fh"]["steps"])
        forecaster._fh = ForecastingHorizon(steps, is_relative=body["fh"]["relative"])
    forecaster._is_vectorized = several
    forecaster._state = "fitted"
    return forecaster


def index_to_json(index: pd.Index) -> dict[str, Any]:
    """Time points as plain values, frequency and time zone beside them.

    Raises: UserError: an index of another kind than periods, dates or whole numbers.
    """
    if isinstance(index, pd.PeriodIndex):
        return {"kind": "period", "values": [int(i) for i in index.asi8], "freq": index.freqstr, "name": index.name}
    if isinstance(index, pd.DatetimeIndex):
        zone = None if index.tz is None else str(index.tz)
        nanoseconds = [int(t.value) for t in index]
        return {"kind": "datetime", "values": nanoseconds, "freq": index.freqstr, "zone": zone, "name": index.name}
    if pd.api.types.is_integer_dtype(index):
        return {"kind": "integer", "values": [int(i) for i in index], "name": index.name}
    raise UserError(f"an index of {index.dtype} cannot be saved; periods, dates and whole numbers can")


def index_from_json(said: dict[str, Any]) -> pd.Index:
    """What `index_to_json` took apart."""
    if said["kind"] == "period":
        return pd.PeriodIndex.from_ordinals(said["values"], freq=said["freq"], name=said["name"])
    if said["kind"] == "integer":
        return pd.Index(said["values"], dtype="int64", name=said["name"])
    index = pd.DatetimeIndex(pd.to_datetime(said["values"], unit="ns", utc=True), name=said["name"])
    index = index.tz_convert(said["zone"]) if said["zone"] else index.tz_localize(None)
    index.freq = said["freq"]
    return index
