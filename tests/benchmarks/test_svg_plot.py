"""A plot is well-formed, inside its frame, and higher where the numbers are."""

from pathlib import Path
from xml.etree import ElementTree

from benchmarks.svg_plot import Series, write_plot

_SVG = "{http://www.w3.org/2000/svg}"


def test_every_point_is_inside_the_frame_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    rising = Series(name="a < b", points=((1, 3.0), (16, 40.0), (256, 900.0)))
    write_plot(tmp_path / "plot.svg", [rising], title="t & t", x_label="x", y_label="y")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    circles = [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in root.iter(f"{_SVG}circle")]
    assert len(circles) == 3 and all(0 < x < width and 0 < y < height for x, y in circles)
    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    assert [y for _, y in circles] == sorted((y for _, y in circles), reverse=True)
    texts = [text.text for text in root.iter(f"{_SVG}text")]
    assert {"t & t", "a < b", "256", "2", "1000"} <= set(texts)


def test_one_point_is_a_plot_too(tmp_path: Path) -> None:
    write_plot(tmp_path / "plot.svg", [Series(name="a", points=((1, 1.0),))], title="t", x_label="x", y_label="y")
    assert len(list(ElementTree.parse(tmp_path / "plot.svg").getroot().iter(f"{_SVG}circle"))) == 1


def test_a_linear_plot_has_its_points_where_their_shares_are(tmp_path: Path) -> None:
    line = Series(name="a", points=((0, 0.0), (4, 0.5), (8, 1.0)))
    write_plot(tmp_path / "plot.svg", [line], title="t", x_label="x", y_label="y", y_range=(0.0, 1.0))
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    points = [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in root.iter(f"{_SVG}circle")]
    assert points[1] == tuple((first + last) / 2 for first, last in zip(points[0], points[2], strict=True))
    assert {"0", "0.2", "0.8", "1"} <= {text.text for text in root.iter(f"{_SVG}text")}
