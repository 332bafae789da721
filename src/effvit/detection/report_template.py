"""The HTML of a detection evaluation, for jinja2; a module rather than a file, so that no installation can lose it."""

from effvit.page_style import DARK_AND_PAPER, HEADLINE, TALL, page_head

_OWN_STYLE = HEADLINE + "figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }\n" + TALL

TEMPLATE = (
    page_head("{{ title }}", DARK_AND_PAPER + _OWN_STYLE)
    + """<h1>{{ title }}</h1>
<p class="soft">{{ subtitle }}</p>
<p class="headline">{{ headline }} <small>{{ headline_note }}</small></p>
<p>{{ at_threshold }}</p>
{% for line in notes %}
<p class="soft">{{ line }}</p>
{% endfor %}
<h2>COCO's twelve numbers, %</h2>
<p class="soft">AP: area under precision over recall, the mean of the overlaps (IoU) .5 to .95; AP50, AP75: at one of
them. AR 1, 10, 100: share of the things found with at most so many detections of a class and picture. Small: below
32 x 32 pixels of the picture; large: from 96 x 96. Empty where there is no such thing.</p>
<div class="scroll"><table>
<thead><tr><th class="text"></th>{% for name in number_names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for kind, values in numbers %}
<tr><td class="text">{{ kind }}</td>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<h2>Precision against recall</h2>
<figure><div class="scroll"><img src="{{ curves }}" alt="Precision over recall"></div></figure>
<h2>The classes</h2>
<p class="soft">Lowest AP first. Recall: share of the things found at an overlap of .5, however unsurely.</p>
<div class="scroll tall"><table>
<thead><tr><th class="text">class</th><th>things</th><th>detections</th>
{% for name in class_columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in classes %}
<tr><td class="text">{{ row.name }}</td><td>{{ row.num_things }}</td><td>{{ row.num_detections }}</td>
{% for value in row.cells %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<h2>False alarms</h2>
<p class="soft">Detections from the score threshold on that are no thing of their class.</p>
<div class="scroll"><table>
<thead><tr><th class="text">why</th><th>detections</th></tr></thead>
<tbody>{% for kind, count in false_alarms %}
<tr><td class="text">{{ kind }}</td><td>{{ count }}</td></tr>
{% endfor %}</tbody>
</table></div>
<h2>The pictures with the most mistakes</h2>
{% if worst %}
<p class="soft">Green: right; red: false alarm, with its score and why it is one; yellow: missed. Wrong labels gather
here too.</p>
<figure><div class="scroll"><img src="{{ worst }}" alt="The pictures with the most mistakes"></div></figure>
{% else %}
<p>There is none.</p>
{% endif %}
{% if about %}
<h2>What was evaluated</h2>
<dl>{% for name, value in about %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% endif %}
</body>
</html>
"""
)
