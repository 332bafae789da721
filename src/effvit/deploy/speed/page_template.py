"""The HTML of the benchmark page, for jinja2; a module rather than a file, so that no installation can lose it."""

from effvit.page_style import page_head

_OWN_STYLE = """td.form { white-space: normal; min-width: 11rem; }
tr.ours td.model { color: var(--ours); font-weight: 600; }
tr.control td { color: var(--soft); font-style: italic; }
"""

TEMPLATE = (
    page_head("effvit benchmark, {{ environment.date }}", _OWN_STYLE)
    + """<h1>Speed, measured side by side</h1>
<p class="soft">{{ conditions }}</p>
{% if command %}
<p><code>{{ command }}</code></p>
{% endif %}
<p>
{% if protocol.name == "interleaved" %}
All models of one batch size took turns in one run, so whatever slowed the machine slowed them all; each is in the
form that was fastest for it.
{% else %}
Measured as in the paper: models one after the other, so what the machine did meanwhile is in the differences.
{% endif %}
{% for row in controls %}
{% if loop.first %}The control is the first model measured a second time, and its distance from 1 is the noise:
{% endif %}
batch {{ row.batch_size }}: {{ "%.3f"|format(row.relative.median) }}{{ "." if loop.last else ", " }}
{% endfor %}
</p>
{% for chart in charts %}
<h2>{{ chart.title }}</h2>
<figure>
<figcaption>{{ chart.caption }}</figcaption>
<div class="scroll">{{ chart.svg|safe }}</div>
</figure>
{% endfor %}
<h2>All rows</h2>
<p class="soft">Milliseconds are for one call with all its pictures; CPU time is that of the whole process. Memory is
what one call takes above the weights. Energy: {{ protocol.energy }}. The last column is time per picture over that of
the first row of the batch size, taken round by round: above 1 is slower.</p>
<div class="scroll">
<table>
<thead><tr>
<th>batch</th><th class="text">model</th><th class="text">runtime</th><th class="text">precision</th>
<th class="text">form</th><th>pixels</th><th>params, M</th><th>top-1, %</th><th>ms</th><th>quartiles</th><th>CPU ms</th>
<th>images/s</th><th>MiB</th><th>mJ/image</th><th>over the first</th>
</tr></thead>
<tbody>
{% for row in rows %}
<tr class="{{ row.kind }}">
<td>{{ row.batch }}</td><td class="text model">{{ row.model }}</td><td class="text">{{ row.runtime }}</td>
<td class="text">{{ row.precision }}</td><td class="text form" title="{{ row.tried }}">{{ row.form }}</td>
<td>{{ row.size }}</td><td>{{ row.params }}</td><td>{{ row.top1 }}</td><td>{{ row.ms }}</td><td>{{ row.quartiles }}</td>
<td>{{ row.cpu_ms }}</td><td>{{ row.speed }}</td><td>{{ row.memory }}</td><td>{{ row.energy }}</td>
<td>{{ row.relative }}</td>
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if missing %}
<h2>Not measured</h2>
<ul>
{% for line in missing %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{% endif %}
{% if sources %}
<h2>Published accuracy</h2>
<p class="soft">Nothing here was measured by this run. Networks without a source are in the table and not in the
pictures of accuracy.</p>
<div class="scroll">
<table>
<thead><tr><th class="text">model</th><th>top-1, %</th><th>pixels</th><th class="text">weights</th>
<th class="text">source</th></tr></thead>
<tbody>
{% for entry in sources %}
<tr><td class="text">{{ entry.model }}</td><td>{{ entry.top1 }}</td><td>{{ entry.image_size }}</td>
<td class="text">{{ entry.weights }}</td><td class="text">{{ entry.source }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
<h2>Machine and software</h2>
<dl>
{% for key, value in environment.items() %}
{% if value is mapping %}
<dt>{{ key }}</dt>
<dd>{% for name, version in value.items() %}{{ name }} {{ version }}{{ "" if loop.last else ", " }}{% endfor %}</dd>
{% else %}
<dt>{{ key.replace("_", " ") }}</dt><dd>{{ value }}</dd>
{% endif %}
{% endfor %}
<dt>weights</dt><dd>{{ protocol.weights }}</dd>
{% if protocol.calibration %}
<dt>int8 calibration</dt><dd>{{ protocol.calibration }}</dd>
{% endif %}
{% if protocol.pinned_cores %}
<dt>pinned to cores</dt><dd>{{ protocol.pinned_cores|join(", ") }}</dd>
{% endif %}
</dl>
</body>
</html>
"""
)
