"""The HTML of a run's report, for jinja2; a module rather than a file, so that no installation can lose it."""

from effvit.page_style import DARK_AND_PAPER, HEADLINE, TALL, page_head

_OWN_STYLE = (
    HEADLINE
    + """figure img.drawing { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem; }
.photos figure { margin: 0; font-size: .8rem; overflow-wrap: anywhere; }
.photos img { width: 100%; height: 150px; object-fit: contain; background: var(--shade); border-radius: 4px; }
.photos .gone { height: 150px; background: var(--shade); border-radius: 4px; display: block; }
.wrong { color: var(--ours); }
.bar { display: inline-block; height: .7em; background: #4a7fb5; vertical-align: baseline; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--ours); }
th button::after { content: " \\2195"; color: var(--soft); }
"""
    + TALL
    + """.changed { font-weight: 600; }
"""
)

_SORT = """
document.querySelectorAll("table.sortable th button").forEach(button => button.onclick = () => {
  const cell = button.parentElement, column = cell.cellIndex, body = cell.closest("table").tBodies[0];
  const down = cell.dataset.down = cell.dataset.down === "1" ? "0" : "1";
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const number = text => text === "" ? -1 : Number(text);
  const text = cell.classList.contains("text");
  const order = (a, b) => text ? value(a).localeCompare(value(b)) : number(value(a)) - number(value(b));
  [...body.rows].sort((a, b) => down === "1" ? order(a, b) : order(b, a)).forEach(row => body.append(row));
});
"""

_PHOTOS = """
{% macro photos(entries) %}
<div class="photos">
{% for entry in entries %}
<figure>
{% if entry.picture %}<img src="{{ entry.picture }}" alt="{{ entry.name }}">
{% else %}<span class="gone" role="img" aria-label="not there any more"></span>{% endif %}
<figcaption><b{{ ' class="wrong"'|safe if entry.true != entry.predicted }}>{{ entry.predicted }}</b>
{{ entry.sure }}<br>is {{ entry.true }}{% if entry.true != entry.predicted %} ({{ entry.chance }}){% endif %}<br>
<span class="soft">{{ entry.name }}</span></figcaption>
</figure>
{% endfor %}
</div>
{% endmacro %}
"""

_EVALUATION = """
<h2>The classes</h2>
<p class="soft">Recall: share of a class's pictures that were recognised. Precision: share of what was called this class
and is. F1: their harmonic mean. Hardest first; press a heading to sort.</p>
<div class="scroll tall"><table class="sortable">
<thead><tr><th class="text"><button>class</button></th><th><button>pictures</button></th>
<th><button>recall, %</button></th><th><button>precision, %</button></th><th><button>F1, %</button></th></tr></thead>
<tbody>
{% for row in evaluation.classes %}
<tr><td class="text">{{ row.name }}</td><td>{{ row.num_pictures }}</td>
{% for share in (row.recall, row.precision, row.f1) %}
<td>{{ "" if share is none else "%.1f"|format(100 * share) }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody>
<tfoot>{% for row in evaluation.averages %}
<tr><td class="text">{{ row.name }}</td><td>{{ row.num_pictures }}</td>
{% for share in (row.recall, row.precision, row.f1) %}<td>{{ "%.1f"|format(100 * share) }}</td>{% endfor %}</tr>
{% endfor %}</tfoot>
</table></div>
{% if evaluation.confused %}
<h2>Most confused</h2>
<div class="scroll"><table>
<thead><tr><th class="text">is</th><th class="text">was called</th><th>pictures</th><th>of the class, %</th>
<th></th></tr></thead>
<tbody>
{% for pair in evaluation.confused %}
<tr><td class="text">{{ pair.true }}</td><td class="text">{{ pair.predicted }}</td><td>{{ pair.num_pictures }}</td>
<td>{{ "%.0f"|format(100 * pair.share) }}</td>
<td class="text"><span class="bar" style="width:{{ "%.1f"|format(8 * pair.share) }}em"></span></td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if evaluation.confusion %}
<h2>Confusion matrix</h2>
<figure><div class="scroll"><img class="drawing" src="{{ evaluation.confusion }}" alt="Confusion matrix"></div></figure>
{% endif %}
{% if evaluation.worst %}
<h2>The surest mistakes</h2>
<p class="soft">What was said and how surely, and what the label says with the probability it was given. Wrong labels
gather here too.</p>
{{ photos(evaluation.worst) }}
{% endif %}
<h2>The least sure predictions</h2>
{{ photos(evaluation.least_sure) }}
<h2>Calibration</h2>
<p>{{ evaluation.calibration }}</p>
{% if evaluation.reliability %}
<figure><img class="drawing" src="{{ evaluation.reliability }}" alt="Accuracy by sureness"></figure>
{% endif %}
{% if evaluation.unreadable %}
<h2>Not read</h2>
<p class="soft">These pictures could not be read and are in no number above.</p>
<ul>{% for line in evaluation.unreadable %}<li>{{ line }}</li>{% endfor %}</ul>
{% endif %}
"""

TEMPLATE = (
    _PHOTOS
    + page_head("{{ title }}", DARK_AND_PAPER + _OWN_STYLE)
    + """<h1>{{ title }}</h1>
<p class="soft">{{ subtitle }}</p>
{% if evaluation %}
<p class="headline">{{ evaluation.headline }} <small>{{ evaluation.headline_note }}</small></p>
<p>{{ evaluation.scores }}</p>
<p class="soft">The interval is for the choice of pictures. The kept epoch was chosen by these same pictures, so the
accuracy on others of the kind is likely to be a little lower.</p>
{% else %}
<p><b>Not evaluated yet</b>: <code>effvit eval RUN</code> adds accuracy by class, mistakes and calibration.</p>
{% endif %}
<h2>What was trained</h2>
<ul>{% for line in trained %}<li>{{ line }}</li>{% endfor %}</ul>
{% if pictures_gone %}
<p><b>The photos cannot be shown</b>: {{ pictures_gone }}.</p>
{% endif %}
{% if curves %}
<figure><div class="scroll"><img class="drawing" src="{{ curves }}" alt="Loss, accuracy, learning rate by epoch"></div>
</figure>
{% endif %}
{% if evaluation %}"""
    + _EVALUATION
    + """{% endif %}
{% if left_out %}
<h2>Left out</h2>
<ul>{% for line in left_out %}<li>{{ line }}</li>{% endfor %}</ul>
{% endif %}
<h2>To reproduce</h2>
{% if command %}<p><code>{{ command }}</code></p>{% endif %}
<dl>{% for name, value in environment %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<h2>Every setting</h2>
<p class="soft">Bold where it is not the default.</p>
<dl>{% for name, value, changed in settings %}
<dt>{{ name }}</dt><dd{{ ' class="changed"'|safe if changed }}>{{ value }}</dd>
{% endfor %}</dl>
<script>"""
    + _SORT
    + """</script>
</body>
</html>
"""
)
