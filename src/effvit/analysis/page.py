"""A report as one HTML page that needs nothing else: no scripts, no fonts, no pictures from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from effvit.analysis.report import Chart, Report
from effvit.figures import as_svg
from effvit.page_style import page_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = (
    page_head("{{ report.title }}", "figure img { max-width: 100%; height: auto; }\n")
    + """<h1>{{ report.title }}</h1>
<p class="soft">{{ report.conditions }}</p>
{% if report.record.command %}
<p><code>{{ report.record.command }}</code></p>
{% endif %}
{% if report.findings %}
<h2>What was found</h2>
<ul>
{% for finding in report.findings %}
<li>{{ finding|with_code }}</li>
{% endfor %}
</ul>
{% endif %}
{% for chart, picture in charts %}
<h2>{{ chart.title }}</h2>
<figure>
<figcaption>{{ chart.caption }}</figcaption>
<div class="scroll">{{ picture|safe }}</div>
</figure>
{% endfor %}
{% for table in report.tables %}
<h2>{{ table.title }}</h2>
{% if table.caption %}
<p class="soft">{{ table.caption }}</p>
{% endif %}
<div class="scroll">
<table>
<thead><tr>
{% for column in table.columns %}
<th{{ ' class="text"'|safe if loop.index0 < table.num_text_columns }}>{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
<td{{ ' class="text"'|safe if loop.index0 < table.num_text_columns }}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
{% if environment %}
<h2>Machine and software</h2>
<dl>
{% for key, value in environment.items() %}
<dt>{{ key.replace("_", " ") }}</dt>
<dd>
{% if value is mapping %}
{% for name, version in value.items() %}{{ name }} {{ version }}{{ "" if loop.last else ", " }}{% endfor %}

{% else %}
{{ value }}
{% endif %}
</dd>
{% endfor %}
</dl>
{% endif %}
</body>
</html>
"""
)


def page(report: Report, figures: Sequence[Figure] | None = None) -> str:
    """The page as HTML; its numbers are those of the record.

    Args:
        report: What to show.
        figures: Its charts as they were drawn for files; None to draw them.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["with_code"] = _with_code
    environment_values: dict[str, Any] = report.record.get("environment", {})
    return environment.from_string(_TEMPLATE).render(
        report=report,
        charts=[
            (chart, _picture(chart, figure))
            for chart, figure in zip(report.charts, figures or [chart.draw() for chart in report.charts], strict=True)
        ],
        environment=environment_values,
    )


def _picture(chart: Chart, figure: Figure) -> str:
    if not chart.is_picture:
        return as_svg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _with_code(text: str) -> Any:
    """Markdown's `code` as HTML has it; everything else is text."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
