"""Programs as a whole: reading, checking, states, loops, and what cannot be judged."""

import struct

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

from edgekit.errors import BundleError, ParityError, UnsupportedError  # noqa: E402
from edgekit.export.mil import Interpreter, UnknownOperatorError, read_package  # noqa: E402
from edgekit.export.mil.blobs import BlobFile, unpack  # noqa: E402
from edgekit.export.mil.operators import OPERATORS  # noqa: E402
from edgekit.export.mil.operators.state import State  # noqa: E402

from .mil_programs import builder, close, emit, interpret, normal  # noqa: E402

mb = builder()
DATA = "Data/com.apple.CoreML"


@pytest.fixture
def package(tmp_path):
    """A convolution and a bias, whose weights are in the weight file."""
    weight, bias = normal(4, 3, 3, 3, seed=1), normal(1, 4, 1, 1, seed=2)
    emit(
        lambda x: mb.add(x=mb.conv(x=x, weight=weight, pad_type="valid"), y=bias),
        {"x": normal(1, 3, 6, 5)},
        tmp_path / "m.mlpackage",
    )
    return tmp_path / "m.mlpackage"


def change(package, edit):
    """Edit a package's specification in place."""
    from coremltools.proto import Model_pb2

    path = package / DATA / "model.mlmodel"
    model = Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    edit(model)
    path.write_bytes(model.SerializeToString())


def block(model):
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def run(package):
    function, _ = read_package(package)
    x = torch.from_numpy(normal(1, 3, 6, 5))
    return Interpreter(function).run({"x": x})


def test_the_program_is_read_as_it_lies_there(package):
    function, spec = read_package(package)
    assert (function.opset, spec.specificationVersion) == ("CoreML8", 9)
    assert function.operators() == {"const", "conv", "add"}
    (x,) = function.inputs
    assert (x.name, x.type.dtype, x.type.shape) == ("x", "float32", (1, 3, 6, 5))
    assert function.block.outputs == (function.block.operations[-1].outputs[0].name,)


def test_the_weights_are_read_by_ourselves(package):
    blobs = BlobFile(package / DATA / "weights" / "weight.bin")
    assert np.array_equal(blobs.read(64, "float32", (4, 3, 3, 3)), normal(4, 3, 3, 3, seed=1))


def broken(offset, content):
    def edit(path):
        data = bytearray(path.read_bytes())
        data[offset : offset + len(content)] = content
        path.write_bytes(data)

    return edit


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (broken(4, struct.pack("<I", 1)), "version 1"),
        (broken(64, b"\0\0\0\0"), "no blob is at 64"),
        (broken(68, struct.pack("<I", 1)), "is float16, the program says float32"),
        (broken(68, struct.pack("<I", 99)), "is type 99"),
        (broken(72, struct.pack("<Q", 431)), "does not have 108 elements"),
        (broken(80, struct.pack("<Q", 1 << 40)), "points outside"),
        (broken(80, struct.pack("<Q", 130)), "points outside"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "points outside"),
        (lambda path: path.write_bytes(b"short"), "shorter than its header"),
        (lambda path: path.unlink(), "no weight file"),
    ],
)
def test_a_damaged_weight_file_is_noticed(package, edit, why):
    edit(package / DATA / "weights" / "weight.bin")
    with pytest.raises(BundleError, match=why):
        read_package(package)


def test_a_weight_file_elsewhere_is_refused(package, tmp_path):
    (tmp_path / "weight.bin").write_bytes((package / DATA / "weights/weight.bin").read_bytes())

    def edit(model):
        for operation in block(model).operations:
            for value in operation.attributes.values():
                if value.blobFileValue.fileName:
                    value.blobFileValue.fileName = "@model_path/../../../weight.bin"

    change(package, edit)
    with pytest.raises(BundleError, match="no weight file"):
        read_package(package)


def test_no_package_and_no_program(tmp_path, package):
    with pytest.raises(BundleError, match="damaged"):
        read_package(tmp_path / "nothing.mlpackage")
    (package / DATA / "model.mlmodel").write_bytes(b"\xff\xff not a model")
    with pytest.raises(BundleError, match=r"damaged|no ML program"):
        read_package(package)


def test_an_older_set_of_operators_is_refused(tmp_path):
    x = normal(2)
    emit(lambda v: mb.relu(x=v), {"x": x}, tmp_path / "m.mlpackage", "iOS16")
    with pytest.raises(UnsupportedError, match="operators of CoreML6"):
        read_package(tmp_path / "m.mlpackage")


def test_an_unknown_operator_is_named(package):
    def edit(model):
        block(model).operations[-1].type = "magic"

    change(package, edit)
    function, _ = read_package(package)
    with pytest.raises(UnknownOperatorError, match="does not know magic") as caught:
        Interpreter(function)
    assert isinstance(caught.value, UnsupportedError)
    assert caught.value.exit_code == 4


def test_an_unknown_type_is_refused(package):
    def edit(model):
        block(model).operations[-1].outputs[0].type.tensorType.dataType = 77

    change(package, edit)
    with pytest.raises(UnsupportedError, match="does not know the type"):
        read_package(package)


def test_an_unknown_mode_is_named(package):
    def edit(model):
        for operation in block(model).operations:
            for value in operation.attributes.values():
                if value.immediateValue.tensor.strings.values == ["valid"]:
                    value.immediateValue.tensor.strings.values[0] = "loose"

    change(package, edit)
    with pytest.raises(UnknownOperatorError, match="conv with the padding loose"):
        run(package)


def test_an_unknown_parameter_is_named(package):
    def edit(model):
        inputs = block(model).operations[-1].inputs
        inputs["twist"].CopyFrom(inputs["y"])

    change(package, edit)
    with pytest.raises(UnknownOperatorError, match="add with the parameter twist"):
        run(package)


def wrong_size(last):
    last.outputs[0].type.tensorType.dimensions[1].constant.size = 5


def wrong_type(last):
    last.outputs[0].type.tensorType.dataType = 23


def wrong_shape(last):
    last.inputs["y"].arguments[0].name = "x"


def lost_value(last):
    last.inputs["y"].arguments[0].name = "lost"


def lost_result(last):
    last.outputs[0].name = "elsewhere"


def lost_parameter(last):
    del last.inputs["y"]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (wrong_size, r"gives shape \[1, 4, 4, 3\] at add .* declares \[1, 5, 4, 3\]"),
        (wrong_type, r"gives a real number at add .* not int32"),
        (wrong_shape, r"cannot be computed at add"),
        (lost_value, r"nothing gives the value 'lost'"),
        (lost_result, r"nothing in the ML program gives the value add"),
        (lost_parameter, r"cannot be computed at add .*missing"),
    ],
)
def test_a_program_that_contradicts_itself_is_not_the_model(package, edit, why):
    change(package, lambda model: edit(block(model).operations[-1]))
    with pytest.raises(ParityError, match=why):
        run(package)


def test_values_inside_can_be_watched(package):
    function, _ = read_package(package)
    (name,) = (o.outputs[0].name for o in function.block.operations if o.kind == "conv")
    x = torch.from_numpy(normal(1, 3, 6, 5))
    outputs, seen = Interpreter(function).run({"x": x}, watched=[name, "x", "absent"])
    assert set(seen) == {name, "x"}
    bias = torch.from_numpy(normal(1, 4, 1, 1, seed=2))
    assert torch.equal(seen[name] + bias, next(iter(outputs.values())))


def test_dynamic_sizes(tmp_path):
    from coremltools.converters.mil.mil import get_new_symbol

    size = get_new_symbol()

    class Shaped:
        shape, dtype = (1, 2, size, 3), np.dtype("float32")

    def build(x):
        height = mb.slice_by_size(x=mb.shape(x=x), begin=[2], size=[1])
        return mb.reshape(x=x, shape=mb.concat(values=[[2], height, [3]], axis=0))

    emit(
        build,
        {"x": Shaped},
        tmp_path / "m.mlpackage",
    )
    function, _ = read_package(tmp_path / "m.mlpackage")
    assert function.inputs[0].type.shape == (1, 2, None, 3)
    for height in (1, 4, 7):
        x = torch.randn(1, 2, height, 3)
        (found,) = Interpreter(function).run({"x": x})[0].values()
        assert torch.equal(found, x.reshape(2, height, 3))
    with pytest.raises(ParityError, match="declares"):
        Interpreter(function).run({"x": torch.zeros(1, 3, 4, 3)})


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch(flag):
    x = normal(3)
    found = interpret(
        lambda p, v: mb.cond(
            pred=mb.squeeze(x=p), _true_fn=lambda: mb.add(x=v, y=v), _false_fn=lambda: mb.exp(x=v)
        ),
        np.array([flag]),
        x,
    )
    close(found, x + x if flag else np.exp(x))


def test_a_loop():
    x, count = normal(3), np.array([4], np.int32)

    def build(v, n):
        limit = mb.squeeze(x=n)
        return tuple(
            mb.while_loop(
                _cond=lambda i, a: mb.less(x=i, y=limit),
                _body=lambda i, a: (mb.add(x=i, y=1), mb.mul(x=a, y=2.0)),
                loop_vars=(np.int32(0), v),
            )
        )

    found = interpret(build, x, count)
    assert found[0] == 4
    close(found[1], 16 * x)


def test_states_last_from_run_to_run(tmp_path):
    import coremltools as ct
    from coremltools.converters.mil.backend.mil.load import MILProtoExporter
    from coremltools.converters.mil.mil import Function, Program, types
    from coremltools.proto import Model_pb2

    inputs = {
        "x": mb.placeholder((2,), types.fp16),
        "sum": mb.state_tensor_placeholder((2,), types.fp16),
    }
    with Function(inputs, opset_version=ct.target.iOS18) as function:
        old = mb.read_state(input=function.inputs["sum"])
        new = mb.add(x=old, y=function.inputs["x"])
        function.set_outputs([mb.coreml_update_state(state=function.inputs["sum"], value=new)])
    program = Program()
    program.add_function("main", function)
    program.skip_all_passes = True
    folder = tmp_path / "m.mlpackage" / DATA / "weights"
    folder.mkdir(parents=True)
    model = Model_pb2.Model(specificationVersion=9)
    model.mlProgram.CopyFrom(MILProtoExporter(program, str(folder), 9).export())
    (folder.parent / "model.mlmodel").write_bytes(model.SerializeToString())
    function, _ = read_package(tmp_path / "m.mlpackage")
    assert {"read_state", "write_state"} <= function.operators()
    x, states = torch.tensor([1.0, 2.0]), {"sum": State(torch.zeros(2))}
    interpreter = Interpreter(function)
    for step in (1, 2, 3):
        (found,) = interpreter.run({"x": x}, states)[0].values()
        assert found.tolist() == states["sum"].value.tolist() == [step, 2 * step]
    (fresh,) = interpreter.run({"x": x})[0].values()
    assert fresh.tolist() == [1, 2]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_values_below_a_byte_are_unpacked(bits):
    values = np.arange(13) % 2**bits
    stream = "".join(format(v, f"0{bits}b")[::-1] for v in values).ljust(
        -(-13 * bits // 8) * 8, "0"
    )
    content = bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8))
    assert unpack(content, f"uint{bits}", (13,)).tolist() == values.tolist()
    with pytest.raises(ValueError, match="13 elements"):
        unpack(content + b"\0\0", f"uint{bits}", (13,))


def test_small_signed_values_keep_their_sign():
    assert unpack(bytes([0x78, 0x0F]), "int4", (3,)).tolist() == [-8, 7, -1]


def test_the_vocabulary():
    """What a package is judged by must not shrink unnoticed."""
    assert len(OPERATORS) >= 130
    assert {"conv", "scaled_dot_product_attention", "constexpr_lut_to_dense"} <= OPERATORS.keys()
