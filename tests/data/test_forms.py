"""Data as people have it: one array, a folder of arrays, a stack in a folder, tables, JSON lines, loaders; what is converted, and what is asked."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_forms import FIXED, X, floats, folder, stacked, values

from graphcompress.data import Dataset, memory_data, open_data
from graphcompress.data.tables import read_csv
from graphcompress.errors import DataError
from graphcompress.ir import TensorSpec

WIDE = TensorSpec("X", "float", ("n", 3))
TOKENS = TensorSpec("ids", "int64", ("n", "length"))


def texts(data: Dataset, id: str) -> str:
    return " ".join(finding.text for finding in data.findings() if finding.id == id)


# --- arrays ---------------------------------------------------------------------------------------------------------------------------


def test_one_array_is_stacked_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats(4, 3))
    assert [feed["x"].tolist() for feed in open_data(tmp_path / "x.npy", [X])] == [[row] for row in floats(4, 3).tolist()]
    with pytest.raises(DataError, match=r"one array without a name, and the model's inputs are 'x', 'k'"):
        open_data(tmp_path / "x.npy", [X, TensorSpec("k", "float", ("n", 3))])
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects.npy: this .npy cannot be read.*Python objects"):
        open_data(tmp_path / "objects.npy", [X])


def test_an_archive_without_names_is_for_the_only_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", floats(4, 3))
    assert len(open_data(tmp_path / "data.npz", [X])) == 4
    with np.load(tmp_path / "data.npz") as file:
        assert len(memory_data(file, [X])) == 4
    np.savez(tmp_path / "two.npz", floats(4, 3), floats(4, 3))
    with pytest.raises(DataError, match="'arr_1' is no input"):
        open_data(tmp_path / "two.npz", [X])


def test_a_stack_in_a_folder_is_cut_as_the_file_is(tmp_path: Path) -> None:
    for spec, count in ((X, 8), (FIXED, 4)):
        assert len(open_data(folder(tmp_path, {"x": floats(8, 3)}), [spec])) == count
    state = TensorSpec("h", "float", ("m", 2))
    assert len(open_data(folder(tmp_path / "a", {"x": floats(8, 3), "h": floats(2, 2)}), [X, state])) == 1


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    """Each a feed of the only input, with or without its batch axis; or INPUT.npy for each input."""
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", floats(3) + index)
    data = open_data(tmp_path, [X])
    assert [feed["x"].tolist() for feed in data] == [[(floats(3) + i).tolist()] for i in range(3)]
    assert "'x' has no batch axis in the data, [3]" in texts(data, "data/converted")
    place = tmp_path / "named"
    place.mkdir()
    np.save(place / "x.npy", floats(4, 3))
    np.save(place / "k.npy", floats(4, 3))
    assert [sorted(feed) for feed in open_data(place, [X, TensorSpec("k", "float", ("n", 3))])] == [["k", "x"]] * 4


def test_a_batch_axis_is_only_put_where_the_rest_fits(tmp_path: Path) -> None:
    assert next(iter(memory_data([{"x": floats(3)}], [TensorSpec("x", "float", (1, 3))])))["x"].shape == (1, 3)
    with pytest.raises(DataError, match="'x' has 1 axes"):
        memory_data([{"x": floats(4)}], [X])
    with pytest.raises(DataError, match="'x' has 1 axes"):
        memory_data([{"x": floats(3)}], [FIXED])


@pytest.mark.parametrize(
    ("spec", "array", "goal"),
    [
        (X, floats(4, 3).astype(np.float64), np.float32),
        (X, floats(4, 3).astype(np.float16), np.float32),
        (TensorSpec("x", "int64", ("n", 3)), floats(4, 3).astype(np.int32), np.int64),
        (TensorSpec("x", "int32", ("n", 3)), floats(4, 3).astype(np.uint8), np.int32),
    ],
)
def test_harmless_widening_is_done_and_said(tmp_path: Path, spec: TensorSpec, array: np.ndarray[Any, Any], goal: Any) -> None:
    for data in (open_data(stacked(tmp_path, x=array), [spec]), memory_data([{"x": array}], [spec])):
        assert all(feed["x"].dtype == goal for feed in data)
        assert f"'x' is {array.dtype.name} in the data and was converted to {np.dtype(goal).name}" in texts(data, "data/converted")
    assert texts(memory_data([{"x": array.astype(goal)}], [spec]), "data/converted") == ""


def test_numbers_beyond_the_narrower_type_are_refused() -> None:
    with pytest.raises(DataError, match="'x' has float64 values that are beyond float32"):
        memory_data([{"x": np.array([[1e300, 0, 0]])}], [X])


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    other = TensorSpec("k", "int64", ("n",))
    with pytest.raises(DataError, match=r"2 things do not fit. \(1\) The array 'x' is uint8.*\(2\) The array 'k' is float32") as caught:
        memory_data([{"x": floats(1, 3).astype(np.uint8), "k": floats(1)}], [X, other])
    assert "feed 0" in str(caught.value)
    good, bad, worse = {"x": floats(1, 3)}, {"x": floats(1, 4)}, {"y": floats(1, 3)}
    with pytest.raises(DataError, match=r"001.npz: axis 1 of the array 'x' has 4.*So it is with 1 other feed.*003.npz: the array 'x' is missing"):
        open_data(folder(tmp_path, good, bad, bad, worse), [X])


def test_images_with_their_channels_at_the_other_end_get_the_order() -> None:
    image = TensorSpec("image", "float", ("n", 3, 8, 8))
    with pytest.raises(DataError, match=r"np.transpose\(image, \(0, 3, 1, 2\)\)"):
        memory_data([{"image": floats(1, 8, 8, 3)}], [image])
    with pytest.raises(DataError, match=r"np.transpose\(image, \(0, 2, 3, 1\)\)"):
        memory_data([{"image": floats(1, 3, 8, 8)}], [TensorSpec("image", "float", ("n", 8, 8, 3))])


# --- tables ---------------------------------------------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "frame"])
def test_one_long_text_does_not_widen_the_others(tmp_path: Path, form: str) -> None:
    """What is held grows with the characters that there are, not with rows times the longest cell, which would be 800 MB here."""
    cells = [*(f"t{i}" for i in range(2000)), "long " * 20_000]
    spec = TensorSpec("text", "string", ("n", 1))

    def opened() -> Dataset:
        if form == "csv":
            return open_data(table(tmp_path, "text,_label\n" + "\n".join(f"{cell},{cell}" for cell in cells)), [spec])
        if form == "jsonl":
            return open_data(table(tmp_path, "\n".join(json.dumps({"text": cell}) for cell in cells), "rows.jsonl"), [spec])
        if form == "parquet":
            arrow, parquet = pytest.importorskip("pyarrow", reason="the extra [tables]"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table({"text": cells}), tmp_path / "rows.parquet")
            return open_data(tmp_path / "rows.parquet", [spec])
        return memory_data({"text": np.array(cells, object)[:, None]}, [spec])

    tracemalloc.start()
    try:
        data = opened()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    texts = [feed["text"].tolist() for feed in data]
    assert texts[:2] == [[["t0"]], [["t1"]]] and texts[-1] in ([[cells[-1]]], [[cells[-1].strip()]])
    if form == "csv":
        labels = [truth["_label"] for truth in data.labels() or ()]
        assert [str(label[0]) for label in labels][:2] == ["t0", "t1"] and {label.dtype.kind for label in labels} == {"U"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_in_the_files_order_are_the_only_input(tmp_path: Path, separator: str) -> None:
    data = open_data(table(tmp_path, separator.join("abc") + "\n" + separator.join(["1", "2.5", "-3"]) + "\n" + separator.join(["4", "5", "1e3"])), [WIDE])
    assert [feed["X"].tolist() for feed in data] == [[[1, 2.5, -3]], [[4, 5, 1000]]] and next(iter(data))["X"].dtype == np.float32
    assert "'X' is made of 3 columns in the file's order: 'a', 'b', 'c'" in texts(data, "data/columns")


def test_a_table_without_names(tmp_path: Path) -> None:
    assert [feed["X"].tolist() for feed in open_data(table(tmp_path, "1,2,3\n4,5,6\n"), [WIDE])] == [[[1, 2, 3]], [[4, 5, 6]]]


def test_columns_by_name_strings_too(tmp_path: Path) -> None:
    """What skl2onnx makes of a ColumnTransformer: an input [n, 1] per column."""
    specs = [
        TensorSpec("age", "float", ("n", 1)),
        TensorSpec("city", "string", ("n", 1)),
        TensorSpec("member", "bool", ("n", 1)),
        TensorSpec("visits", "int64", ("n",)),
    ]
    data = open_data(table(tmp_path, 'visits,age,city,member,_label\n3,41,"Basel, CH",true,1\n0,7.5,Ulm,false,0\n'), specs)
    first = next(iter(data))
    assert (first["age"].tolist(), first["city"].tolist(), first["member"].tolist(), first["visits"].tolist()) == ([[41.0]], [["Basel, CH"]], [[True]], [3])
    assert [int(truth["_label"][0]) for truth in data.labels() or ()] == [1, 0]


def test_strings_are_as_they_were_written(tmp_path: Path) -> None:
    """Whatever numbers they look like: a post code, a version, a flag, nothing at all."""
    city, other = TensorSpec("code", "string", ("n", 1)), TensorSpec("rest", "string", ("n", 2))
    data = open_data(table(tmp_path, "version,code,flag\n1.10,01234,true\n2.0,,FALSE\n"), [city, other])
    assert [(feed["code"].tolist(), feed["rest"].tolist()) for feed in data] == [([["01234"]], [["1.10", "true"]]), ([[""]], [["2.0", "FALSE"]])]
    chosen = table(tmp_path, '[table]\ncolumns.code = ["code"]\ncolumns.rest = ["flag", "version"]', "columns.toml")
    assert next(iter(open_data(tmp_path / "rows.csv", [city, other], preprocess=chosen)))["rest"].tolist() == [["true", "1.10"]]
    for missing, kept in (('{"code": "a"}\n{"code": null}\n', "a"), ('{"code": NaN}\n{"code": 1.5}\n', "1.5")):
        data = open_data(table(tmp_path, missing, "rows.jsonl"), [city])
        assert [feed["code"].tolist() for feed in data] == [[[kept]]] and "1 of 2 rows were left out, since cells are empty in 'code'" in texts(
            data, "data/columns"
        )


def test_columns_that_pandas_numbered_are_no_data(tmp_path: Path) -> None:
    data = open_data(table(tmp_path, "0,1,2\n5,6,7\n8,9,1\n"), [WIDE])
    assert [feed["X"].tolist() for feed in data] == [[[5, 6, 7]], [[8, 9, 1]]]
    assert "The first row, 0 to 2, was taken for the names" in texts(data, "data/columns")
    with pytest.raises(DataError, match=r'drop = \[""\]'):
        open_data(table(tmp_path, ",a,b,c\n0,5,6,7\n1,8,9,1\n"), [WIDE])


def test_pixels_in_columns_take_the_models_shape(tmp_path: Path) -> None:
    data = open_data(table(tmp_path, "1,2,3,4\n5,6,7,8\n"), [TensorSpec("x", "float", ("n", 1, 2, 2))])
    assert next(iter(data))["x"].tolist() == [[[[1, 2], [3, 4]]]]


@pytest.mark.parametrize("column", ["Fuel type", "fuel-type", "FUEL_TYPE"])
def test_a_column_is_the_input_whose_name_an_exporter_wrote_otherwise(tmp_path: Path, column: str) -> None:
    """skl2onnx writes names as identifiers."""
    specs = [TensorSpec("Fuel_type", "string", ("n", 1)), TensorSpec("km_driven", "float", ("n", 1))]
    data = open_data(
        table(tmp_path, f"km driven,{column},used\n1.5,petrol,1\n2,diesel,0\n"), specs, preprocess=table(tmp_path, '[table]\ndrop = ["used"]', "c.toml")
    )
    assert [(feed["Fuel_type"].tolist(), feed["km_driven"].tolist()) for feed in data] == [([["petrol"]], [[1.5]]), ([["diesel"]], [[2.0]])]
    assert any(f"'Fuel_type' is the column '{column}'" in note.text for note in data.findings())


@pytest.mark.parametrize(("header", "names"), [("a b,A_B", ["a_b"]), ("x y", ["x_y", "x-y"])])
def test_a_column_is_not_guessed_where_two_would_do(tmp_path: Path, header: str, names: list[str]) -> None:
    rows = ",".join("1" for _ in header.split(","))
    with pytest.raises(DataError, match="cannot be guessed"):
        open_data(table(tmp_path, f"{header}\n{rows}\n"), [TensorSpec(name, "float", ("n", 1)) for name in names])


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2", ""], None),
        (["1,5", "-2", ",25"], [1.5, -2, 0.25]),
        (["1,5e3", "1,234", "0"], [1500, 1.234, 0]),
        (["0,125", "1,250", "2"], [0.125, 1.25, 2]),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_beside_another_separator(tmp_path: Path, separator: str, cells: list[str], values: list[float] | None) -> None:
    read = read_csv(table(tmp_path, "\n".join([f"a{separator}b", *(f"{cell}{separator}x" for cell in cells)])))
    got = read.columns["a"].tolist()
    assert got == values or (values is None and got[:2] == [1.5, 2] and np.isnan(got[2]))
    assert read.notes == ("the commas in 'a' were read as decimal points.",) and read.cells["a"].tolist() == cells


@pytest.mark.parametrize("cells", [["1,234", "12,000"], ["1,5", "1.234,5"], ["1,2,3", "4,5"], ["1,5", "x"], ["", ""]])
def test_commas_that_may_part_thousands_or_lists_are_left(tmp_path: Path, cells: list[str]) -> None:
    read = read_csv(table(tmp_path, "\n".join(["a;b", *(f"{cell};x" for cell in cells)])))
    assert read.columns["a"].tolist() == cells and not read.notes


def test_rows_with_decimal_commas_and_no_names(tmp_path: Path) -> None:
    assert read_csv(table(tmp_path, "1,5;2\n3;4,25\n")).columns["1"].tolist() == [2, 4.25]


def test_rows_with_empty_cells_are_left_out_with_their_truth(tmp_path: Path) -> None:
    """But not for what is not fed."""
    path = table(tmp_path, "a,b,c,label,note\n1,2,3,0,\n,5,6,1,x\n7,8,9,2,\n")
    data = open_data(path, [WIDE], preprocess=table(tmp_path, '[table]\ndrop = ["label", "note"]', "columns.toml"))
    assert [feed["X"].tolist() for feed in data] == [[[1, 2, 3]], [[7, 8, 9]]]
    assert [int(truth["_label"][0]) for truth in data.labels() or ()] == [0, 2]
    assert "1 of 3 rows were left out, since cells are empty in 'a'." in texts(data, "data/columns")


def test_what_cannot_be_guessed_is_asked_and_the_answer_taken(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b,c,label\n1,2,3,0\n4,5,6,1\n")
    with pytest.raises(DataError, match=r"'X' \(float \[n, 3\]\) cannot be guessed.*--preprocess columns.toml") as caught:
        open_data(path, [WIDE])
    answer = str(caught.value).partition("\n")[2]
    data = open_data(path, [WIDE], preprocess=table(tmp_path, answer, "columns.toml"))
    assert next(iter(data))["X"].tolist() == [[1, 2, 3]]
    assert [int(truth["_label"][0]) for truth in data.labels() or ()] == [0, 1]
    chosen = open_data(path, [WIDE], preprocess=table(tmp_path, '[table]\ncolumns.X = ["c", "b", "a"]\ndrop = ["label"]', "columns.toml"))
    assert next(iter(chosen))["X"].tolist() == [[3, 2, 1]]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the table is empty"),
        ("a,b,c\n", "the table has no rows"),
        ("a,b,c\n1,2\n", "row 1 has 2 cells, and there are 3 columns"),
        ("a,a,b\n1,2,3\n", "two columns are called 'a'"),
        ("a,b,c\n1,x,3\n", "column 'b': it holds texts.*'X' is float"),
        ("a,b,c\n1,,3\n1,2,\n", "every row has an empty cell, in 'b', 'c'"),
        ("a,b,c\n1_0,2,3\n", "column 'a': it holds texts"),
        (f'a,b,c\n1,2,3\n"{"x," * 100000}', "this is no table .*a quotation mark that is never closed"),
        ("1,2\n3,4\n", r"the table has 2 columns for the model's 'X', float \[n, 3\]. Expected 3 numbers in each row"),
        ("X,b\n1,2\n", "'b' is no input of the model"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        open_data(table(tmp_path, text), [WIDE])


def test_integers_are_not_cut_off(tmp_path: Path) -> None:
    ids = TensorSpec("ids", "int64", ("n", 2))
    assert next(iter(open_data(table(tmp_path, "1.0,2\n"), [ids])))["ids"].tolist() == [[1, 2]]
    with pytest.raises(DataError, match="numbers that int64 cannot hold"):
        open_data(table(tmp_path, "1.5,2\n"), [ids])
    with pytest.raises(DataError, match="numbers that uint8 cannot hold"):
        open_data(table(tmp_path, "300,2\n"), [TensorSpec("ids", "uint8", ("n", 2))])


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra [tables]")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"a": [1, 2], "b": [0.5, 1.5], "city": ["Ulm", "Bonn"], "v": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "rows.parquet")
    specs = [TensorSpec("a", "int64", ("n", 1)), TensorSpec("b", "float", ("n", 1)), TensorSpec("city", "string", ("n",)), TensorSpec("v", "float", ("n", 2))]
    second = values(open_data(tmp_path / "rows.parquet", specs))[1]
    assert {name: array.tolist() for name, array in second.items()} == {"a": [[2]], "b": [[1.5]], "city": ["Bonn"], "v": [[3, 4]]}
    decimal = arrow.array([__import__("decimal").Decimal("1.50")] * 2)
    parquet.write_table(arrow.table({"v": [[1.0, 2.0], [3.0]], "d": decimal, "s": ["a", None]}), tmp_path / "odd.parquet")
    rest = table(tmp_path, '[table]\ndrop = ["v", "s"]', "columns.toml")
    assert values(open_data(tmp_path / "odd.parquet", [TensorSpec("d", "float", ("n", 1))], preprocess=rest))[0]["d"].tolist() == [[1.5]]
    rest = table(tmp_path, '[table]\ndrop = ["d", "s"]', "columns.toml")
    with pytest.raises(DataError, match="column 'v': it holds lists of different lengths"):
        open_data(tmp_path / "odd.parquet", [TensorSpec("v", "float", ("n", 2))], preprocess=rest)
    rest = table(tmp_path, '[table]\ndrop = ["d", "v"]', "columns.toml")
    assert [feed["s"].tolist() for feed in open_data(tmp_path / "odd.parquet", [TensorSpec("s", "string", ("n",))], preprocess=rest)] == [["a"]]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="Parquet file cannot be read"):
        open_data(tmp_path / "bad.parquet", specs)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"rows.parquet: .*pip install pyarrow.*\[tables\]"):
        open_data(tmp_path / "rows.parquet", [X])


# --- JSON lines -----------------------------------------------------------------------------------------------------------------------


def lines(tmp_path: Path, *values: Any) -> Path:
    return table(tmp_path, "\n".join(json.dumps(value) for value in values), "feeds.jsonl")


def test_lines_are_feeds_or_rows_of_a_table(tmp_path: Path) -> None:
    assert [f["x"].tolist() for f in open_data(lines(tmp_path, {"x": [[1, 2, 3]]}, {"x": [4, 5, 6]}), [X])] == [[[1, 2, 3]], [[4, 5, 6]]]
    assert [f["x"].tolist() for f in open_data(lines(tmp_path, [1, 2, 3], [4, 5, 6]), [X])] == [[[1, 2, 3]], [[4, 5, 6]]]
    assert [f["X"].tolist() for f in open_data(lines(tmp_path, {"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 5, "c": 6}), [WIDE])] == [[[1, 2, 3]], [[4, 5, 6]]]
    ragged = open_data(lines(tmp_path, {"ids": [5, 6]}, {"ids": [7, 8, 9]}), [TOKENS])
    assert [f["ids"].shape for f in ragged] == [(1, 2), (1, 3)] and next(iter(ragged))["ids"].dtype == np.int64
    assert len(open_data(table(tmp_path, "[[1, 2, 3], [4, 5, 6]]", "feeds.json"), [X])) == 2


def test_separators_inside_texts_end_no_line(tmp_path: Path) -> None:
    """Unicode has more ends of lines than JSON and text files."""
    word = TensorSpec("word", "string", ("n",))
    lines = [f"a{separator}b" for separator in "\u2028\x85\x0c"]
    escaped = [json.dumps({"word": [line]}, ensure_ascii=False) for line in lines]
    data = open_data(table(tmp_path, "\n".join(escaped), "rows.jsonl"), [word])
    assert [feed["word"].tolist() for feed in data] == [[line] for line in lines]
    assert [feed["word"].tolist() for feed in open_data(table(tmp_path, "\n".join(lines), "texts.txt"), [word])] == [[line] for line in lines]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"X": ' + "[" * 100000, "nested too deeply"),
        ("", "there is no feed in it"),
        ("{", "line 1: this is no JSON"),
        ('{"x": [[1, 2], [3]]}', "'x' is a list of lists of different lengths"),
        ('{"x": [1, null, 3]}', "'x' holds null or objects"),
        ('{"x": ["a", "b", "c"]}', "'x': it holds texts"),
        ('{"z": [1, 2, 3]}', "the array 'x' is missing"),
    ],
)
def test_lines_that_do_not_fit(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        open_data(table(tmp_path, text, "feeds.jsonl"), [X])


# --- objects of other libraries, by what they can do ------------------------------------------------------------------------------------


class Tensor:
    """Like torch's: an array only on demand."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._array


class Loader:
    """Like torch's DataLoader: batches of samples."""

    dataset = collate_fn = None

    def __init__(self, *batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return iter(self._batches)


@pytest.mark.parametrize("spec", [X, TensorSpec("x", "float", (1, 3))])
def test_a_loaders_batches_are_cut_into_feeds(spec: TensorSpec) -> None:
    batches = [[Tensor(floats(4, 3)), Tensor(np.arange(4))], [Tensor(floats(2, 3)), Tensor(np.arange(2))]]
    data = memory_data(Loader(*batches), [spec])
    assert len(data) == 6 and all(feed["x"].shape == (1, 3) for feed in data)
    assert [int(truth["_0"][0]) for truth in data.labels() or ()] == [0, 1, 2, 3, 0, 1]
    assert len(memory_data(Loader({"x": floats(4, 3)}, {"x": floats(4, 3)}), [spec])) == 8
    with pytest.raises(DataError, match=r"batch 1 of the loader: axis 1 of the array 'x' has 5"):
        memory_data(Loader(floats(4, 3), floats(4, 5)), [spec])


def test_a_tuple_of_arrays_is_the_inputs_in_their_order() -> None:
    data = memory_data([(floats(1, 3), np.arange(1))], [X])
    assert next(iter(data))["x"].shape == (1, 3) and [list(truth) for truth in data.labels() or ()] == [["_0"]]


class Frame:
    """Like a DataFrame."""

    columns = ("a", "b", "c")

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return np.array([1.0, 2.0]) * (1 + self.columns.index(name))

    def to_numpy(self) -> None: ...


def test_a_data_frame_is_a_table() -> None:
    assert [feed["X"].tolist() for feed in memory_data(Frame(), [WIDE])] == [[[1, 2, 3]], [[2, 4, 6]]]
