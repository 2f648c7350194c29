"""Renders the templates below with Python's jinja2, set up as transformers does it, into goldens.json.

    python3 -m venv venv && venv/bin/pip install jinja2 && venv/bin/python make_goldens.py

The templates are written for these tests, in the manner of those that models ship.
"""

import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _text(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception

CHAT = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "What is 2 + 2?  "},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4"},
    {"role": "user", "content": "Größe — “naïve” 日本 🎈?"},
]
NO_SYSTEM = CHAT[1:]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather at a \"place\"\nnow",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "items": {"type": "integer"}}, "days": {"type": "integer", "default": 1.5}},
                "required": ["place"],
            },
        },
    }
]

# name -> template in the manner of a family of models; each is rendered for several conversations.
FAMILIES = {
    "chatml": """\
{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{% endif %}
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "one_line": "{% for m in messages %}{{ m.role|upper }}: {{ m.content|trim }}{% if not loop.last %}\n{% endif %}{% endfor %}{% if add_generation_prompt %}\nASSISTANT:{% endif %}",
    "llama2": """\
{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = '' %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 %}
        {% set content = system_message + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + content | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    "llama3": """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message, if there is one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Answer with a call of one of these functions.\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time.") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "qwen3": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma": """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "generation": """\
{%- for message in messages %}
  {%- if message.role == "assistant" %}
    {%- generation %}
      {{- message.content ~ eos_token }}
    {%- endgeneration %}
  {%- else %}
    {{- "[" ~ message.role.title() ~ " " ~ loop.index ~ "/" ~ loop.length ~ "] " ~ message.content.strip() }}
  {%- endif %}
  {{- "\\n" }}
{%- endfor %}
{{- "[Assistant] " if add_generation_prompt else "." }}
""",
    "macros": """\
{%- macro type_of(schema, depth=0) -%}
  {%- if schema.type == "object" -%}
    {
    {%- for key, value in schema.properties.items() -%}
      {{ key }}{{ "?" if key not in schema.required }}: {{ type_of(value, depth + 1) }}{{ ", " if not loop.last }}
    {%- endfor -%}
    }@{{ depth }}
  {%- elif schema["items"] is defined -%}
    {{ type_of(schema["items"], depth=depth + 1) }}[]
  {%- else -%}
    {{ schema.type }}
  {%- endif -%}
{%- endmacro -%}
{%- macro turn(role, content="") -%}
<{{ role }}>{{ content }}{{ caller() if caller }}</{{ role }}>
{%- endmacro -%}
{%- for tool in tools or [] -%}
  namespace {{ tool.function.name }}: {{ type_of(tool.function.parameters) }}
{% endfor -%}
{%- for message in messages -%}
  {%- call turn(message.role) -%}
    {{ message.content|trim|replace("?", "!")|capitalize }}
  {%- endcall -%}
{%- endfor -%}
{{ turn("end", content="x") }}
""",
}

# name -> (template, variables): one feature each. Rendered without messages.
SNIPPETS = {
    "trim_blocks": ("a\n{% if true %}\nb\n{% endif %}\nc\n", {}),
    "lstrip_blocks": ("  {% if true %}  \n    x {% if true %} y\n  {% endif %}\n \t {% endif %}z\n\n", {}),
    "lstrip_not_variable": ("x\n  {{ 1 }}\n  {# note #}\n  {{ 2 }}", {}),
    "plus_signs": ("a\n  {%+ if true +%}\n  b\n  {%+ endif %}\nc", {}),
    "minus_signs": ("a \n {%- if true -%} \n b \n {%- endif -%} \n c", {}),
    "minus_variables": ("a  {{- ' x ' -}}  b {{ -1 }} {{- -1 }}", {}),
    "comment_signs": ("a\n {#- gone -#} \n b\n{# gone #}\nc {#+ kept +#}\nd{#--#} e", {}),
    "comment_newline_at_line_start": ("{# one #}\n   {# two #}\n   x{# three #}   \n", {}),
    "raw": ("a\n{% raw %}\n {{ x }} {% if %}\n{% endraw %}\nb{%- raw -%}  {{ y }}  {%- endraw -%}  c", {}),
    "carriage_returns": ("a\r\n{% if true %}\r\nb\rc{% endif %}\r\n", {}),
    "trailing_newlines": ("x\n\n", {}),
    "nested_braces": ("{{ {'a': {'b': 1}}['a']['b'] }}{{ {'c': [1, {}]} }}", {}),
    "strings": (r"""{{ "q\"\n\t\\ \x41\u00e9\U0001F388 \101 \d" ~ 'it''s' ~ 'a' "b" }}""", {}),
    "numbers": ("{{ 1_000 }} {{ 1.5 }} {{ 1e3 }} {{ 2.5e-7 }} {{ 1e16 }} {{ 123456789012.0 }} {{ 0.1 + 0.2 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }}", {}),
    "arithmetic": ("{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ true + 1 }} {{ 1 - 2 - 3 }} {{ 2 + 3 * 4 }}", {}),
    "string_arithmetic": ("{{ 'ab' * 3 }}{{ 2 * '-' }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ [0] * 2 }}{{ '=' * -1 }}", {}),
    "concat": ("{{ 1 ~ 2.0 ~ none ~ true ~ [1, 'a'] ~ missing ~ 'x' }}", {}),
    "precedence": ("{{ 1 ~ 2 * 3 ~ 4 }} {{ 'a' ~ 'b' == 'ab' }} {{ not 1 == 2 }} {{ not false and false }} {{ true or false and false }} {{ 1 + 2|abs }} {{ -3|abs }} {{ (-3)|abs }}", {}),
    "comparisons": ("{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == none }} {{ missing == missing }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }} {{ 1 != 2 }}", {}),
    "membership": ("{{ 'a' in 'cat' }} {{ 'x' not in ['x'] }} {{ 'k' in {'k': 1} }} {{ 2 in (1, 2) }} {{ 'a' in missing }} {{ not 'a' in 'b' }}", {}),
    "logic_values": ("{{ '' or 'b' }} {{ 'a' and 'c' }} {{ 0 or none }} {{ 1 and [] }} {{ not [] }}", {}),
    "conditional": ("{{ 'y' if 1 else 'n' }}{{ 'y' if 0 }}{{ 'a' if 0 else 'b' if 0 else 'c' }}{{ 'q' if missing is defined and missing else 'r' }}", {}),
    "printing": ("{{ [1, 'a', \"it's\", none, true, 1.0, {'k': (1,)}, ()] }} {{ {'a': [], 1: 'x'} }} {{ 'tab\\t' }} {{ ['tab\\t\\n\\x00é\\u200b🎈'] }} {{ (1, 2) }} {{ [[]] }}", {}),
    "undefined_prints_nothing": ("[{{ missing }}{{ x.y }}{{ x['z'] }}{{ l[9] }}{{ l[-9] }}{{ 'abc'[5] }}]", {"x": {"a": 1}, "l": [1]}),
    "indexing": ("{{ l[0] }}{{ l[-1] }}{{ 'héllo'[1] }}{{ 'héllo'[-1] }}{{ d.k }}{{ d['k'] }}{{ l.0 }}{{ (1, 2)[1] }}", {"l": [1, 2, 3], "d": {"k": "v"}}),
    "slices": ("{{ l[1:] }}{{ l[:-1] }}{{ l[::-1] }}{{ l[::2] }}{{ l[3:1:-1] }}{{ l[-2:] }}{{ l[10:] }}{{ l[:100] }} {{ 'héllo→'[1:4] }}{{ 'héllo'[::-1] }}{{ 'abc'[5:] }}{{ 'abc'[-2:][0] }}", {"l": [1, 2, 3, 4, 5]}),
    "loop_attributes": ("{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}", {}),
    "loop_neighbours": ("{% for m in l %}{% if loop.previtem is defined and loop.previtem == m %}same{% endif %}{% if not loop.last and loop.nextitem != m %}change{% endif %}|{% endfor %}", {"l": [1, 1, 2]}),
    "loop_filter": ("{% for x in range(10) if x is odd %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}{% for x in [1] if x > 1 %}{% else %}empty{% endfor %}", {}),
    "loop_control": ("{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}", {}),
    "loop_unpack": ("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}", {"d": {"a": 1, "b": 2}}),
    "nested_loops": ("{% for a in [1, 2] %}{% set outer = loop %}{% for b in [3, 4] %}{{ outer.index }}{{ loop.index }}{{ loop.depth }}{{ a }}{{ b }} {% endfor %}{% endfor %}", {}),
    "scoping": ("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 10 %}{{ x }} {% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}", {}),
    "loop_variable_hidden": ("{% set i = 'o' %}{% for i in [1] %}{{ i }}{% endfor %}{{ i }}{{ loop is defined }}", {}),
    "namespaces": ("{% set ns = namespace(a=1, found=false) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% if i == 2 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.none_such is defined }}{{ ns['a'] }}{% set m = namespace({'k': 2}) %}{{ m.k }}", {}),
    "set_block": ("{% set x %}a{{ 1 }} {% endset %}[{{ x }}]{% set y | trim | upper %} b {% endset %}[{{ y }}]{% set a, b = 1, 'z' %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}", {}),
    "with_and_filter": ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}{% filter upper | replace('B', '-') %}abc{% endfilter %}", {}),
    "macro_scope": ("{% set g = 'G' %}{% macro m(a, b='B', c=g) %}{{ a }}{{ b }}{{ c }}{{ g }}{% set g = 'L' %}{{ g }}{% endmacro %}{{ m(1) }} {{ m(1, c=2) }} {{ m() }} {{ g }}{% set r = m(0) | lower %}{{ r }}{{ m is defined }}{{ m is callable }}", {}),
    "if_chain": ("{% for x in range(4) %}{% if x == 0 %}zero{% elif x == 1 %}one{% elif x == 2 %}two{% else %}many{% endif %} {% endfor %}", {}),
    "tests": ("{{ x is defined }}{{ missing is undefined }}{{ none is none }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ 1 is number }}{{ 1.0 is number }}{{ true is number }}{{ 1 is integer }}{{ true is integer }}{{ 1.5 is float }}{{ true is boolean }}{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 1 is eq 1 }}{{ 1 is ne(2) }}{{ 2 is gt 1 }}{{ 2 is in [1, 2] }}{{ 'ab' is lower }}{{ 'AB' is upper }}{{ x is sameas x }}{{ [] is sequence }}{{ {} is sequence }}{{ x is not none }}{{ not x is none }}{{ range is callable }}", {"x": 1}),
    "case_filters": ("{{ 'hELLO wORLD-foo (bar' | title }}|{{ 'hELLO' | capitalize }}|{{ 'ñandú' | upper }}|{{ 'ÉA' | lower }}|{{ \"it's a dog\".title() }}|{{ 'x y'.capitalize() }}|{{ 'aé'.upper() }}", {}),
    "trim_filters": ("[{{ '  a b\\u3000\\n' | trim }}][{{ 'xxaxx' | trim('x') }}][{{ '  a '.strip() }}][{{ '  a '.lstrip() }}][{{ '  a '.rstrip() }}][{{ 'abcba'.strip('ab') }}][{{ 'éaé'.strip('é') }}][{{ missing | trim }}]", {}),
    "lengths": ("{{ 'héé' | length }}{{ [1, 2] | length }}{{ {'a': 1} | count }}{{ missing | length }}{{ '' | length }}", {}),
    "defaults": ("{{ missing | default('d') }}{{ none | default('d') }}{{ none | default('d', true) }}{{ '' | d('e', boolean=true) }}{{ x.y | default(1) }}{{ missing | default }}", {"x": {}}),
    "joins": ("{{ [1, 'a', none] | join(', ') }}|{{ 'abc' | join('-') }}|{{ l | join(';', attribute='n') }}|{{ ['a', 'b'] | join }}|{{ ', '.join(['x', 'y']) }}", {"l": [{"n": 1}, {"n": 2}]}),
    "replaces": ("{{ 'aXbX' | replace('X', '--') }}{{ 'aXbX' | replace('X', '', 1) }}{{ 'abc'.replace('b', 'BB') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'ab'.replace('', '.') }}{{ 1 | replace(1, 2) }}{{ 'é'.replace('', '.') }}", {}),
    "splits": ("{{ 'a,b,,c'.split(',') }}{{ '  a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ ''.split(',') }}{{ ''.split() }}{{ 'a b  c '.split(none, 1) }}{{ ' a b  c'.rsplit(none, 1) }}{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ '<t>x</t>y'.split('</t>')[-1] }}", {}),
    "prefixes": ("{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'abc'.startswith('') }}", {}),
    "finds": ("{{ 'héllo'.find('l') }}{{ 'abc'.find('x') }}{{ 'héllol'.rfind('l') }}{{ 'abab'.count('ab') }}{{ 'abc'.index('c') }}{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}{{ 'éa'.count('') }}", {}),
    "character_classes": ("{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ ''.isdigit() }}{{ 'AB'.isupper() }}{{ 'a1'.islower() }}{{ 'é'.isalpha() }}{{ '1'.isupper() }}", {}),
    "formats": ("{{ '{} and {}'.format(1, 'b') }}{{ '{1}{0}'.format('x', 'y') }}{{ '{a}{{}}'.format(a=[1]) }}", {}),
    "dict_methods": ("{{ d.get('a') }}{{ d.get('z') }}{{ d.get('z', 0) }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.items() | list }}{{ d | items | list }}{{ d | dictsort }}{{ d | list }}{{ d | length }}{{ dict(a=1, b=2) }}", {"d": {"a": 1, "b": {"c": 2}}}),
    "dict_attribute_is_method": ("{{ d['items'] }}{{ d.items is callable }}{{ d.get is defined }}", {"d": {"items": 5}}),
    "select_filters": ("{{ l | selectattr('role', 'equalto', 'user') | list | length }}{{ l | selectattr('x') | list }}{{ l | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }}{{ [1, 2, 3] | select('odd') | list }}{{ [0, 1] | select | list }}{{ [1, 2] | reject('gt', 1) | list }}{{ l | selectattr('a.b', 'defined') | list }}{{ l | map(attribute='x', default='-') | join }}", {"l": [{"role": "user", "a": {"b": 1}}, {"role": "tool", "x": 1, "a": {}}]}),
    "map_filters": ("{{ ['a', 'b'] | map('upper') | join }}{{ [' a '] | map('trim') | list }}{{ l | map(attribute='a.0') | list }}{{ ['1'] | map('int') | sum }}{{ ['x'] | map('replace', 'x', 'y') | first }}", {"l": [{"a": [7]}]}),
    "sorts": ("{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ [3, 1, 2] | sort(reverse=true) }}{{ l | sort(attribute='k') | map(attribute='k') | list }}{{ ['a', 'A', 'b'] | unique | list }}{{ [3, 1, 2] | min }}{{ [3, 1] | max }}{{ ['b', 'A'] | min }}", {"l": [{"k": 2}, {"k": 1}]}),
    "list_filters": ("{{ [1, 2] | first }}{{ [1, 2] | last }}{{ 'abc' | first }}{{ 'abc' | reverse }}{{ [1, 2] | reverse | list }}{{ 'ab' | list }}{{ [] | first }}{{ [1, 2, 3] | sum }}{{ range(3) | list }}{{ range(1, 8, 3) | list }}{{ range(3, 0, -1) | list }}", {}),
    "number_filters": ("{{ -3 | abs }}{{ (-2.5) | abs }}{{ 2.567 | round(1) }}{{ 2.5 | round }}{{ 2.1 | round(method='ceil') }}{{ '42' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ '3.9' | int }}{{ '1.5' | float }}{{ 3.7 | int }}{{ 'ff' | int(base=16) }}{{ 5 | string + '!' }}{{ ' 12 ' | int }}", {}),
    "indent_filter": ("{{ 'a\\nb\\n\\nc' | indent }}|{{ 'a\\nb' | indent(2, true) }}|{{ 'a\\n\\nb' | indent(2, blank=true) }}|{{ 'a\\nb' | indent('> ') }}", {}),
    "tojson": ("{{ v | tojson }}\n{{ v | tojson(indent=2) }}\n{{ v | tojson(sort_keys=true) }}\n{{ v | tojson(separators=(',', ':')) }}\n{{ v | tojson(ensure_ascii=true) }}\n{{ [] | tojson(indent=4) }}{{ (1, 2) | tojson }}{{ 1e16 | tojson }}{{ {1: true, none: 2} | tojson }}{{ '<a> & \\'b\\'' | tojson }}", {"v": {"a": [1, 2.5, None, True], "é": "q\"\\\n\t\u0001\u007f🎈", "e": {}, "f": []}}),
    "unknown_in_untaken_branch": ("{% if false %}{{ x | no_such_filter }}{{ x is no_such_test }}{{ no_such_function() }}{% endif %}ok", {}),
    "filter_chain_on_call": ("{{ ('a' ~ 'b') | upper | lower | replace('a', 'c') }}{{ {'f': 'x'}.f | upper }}{{ [1, 2][0] | string }}", {}),
    "is_with_filters": ("{{ 'a' | upper is upper }}{{ [1, 2] | length is eq 2 }}{{ x is defined and x is not none and x | length > 0 }}{{ 'b' if x is not string else 'c' }}", {"x": "s"}),
    "implicit_tuple_of_prints": ("{{ 1, 2 }}{% set l = [1, 2,] %}{{ l }}{{ {'a': 1,} }}{{ (1,) }}", {}),
    "method_of_literal": ("{{ 'a-b'.split('-')[1].upper() }}{{ [3, 4][::-1][0] }}{{ 'x'.join('ab') }}", {}),
    "dotted_strings": ("{{ x['a.b'] }}{{ x['a']['b'] }}", {"x": {"a.b": 1, "a": {"b": 2}}}),
}

# Must fail in jinja2, and in nibble.
ERRORS = {
    "raise": "{{ raise_exception('no ' ~ 'way') }}",
    "undefined_attribute": "{{ missing.x }}",
    "undefined_item": "{{ missing['x'] }}",
    "undefined_nested": "{{ messages[9].content }}",
    "undefined_plus": "{{ 'a' + missing }}",
    "string_plus_int": "{{ 'a' + 1 }}",
    "none_plus": "{{ none + 'a' }}",
    "call_undefined": "{{ missing() }}",
    "call_string": "{{ 'a'() }}",
    "divide_by_zero": "{{ 1 / 0 }}",
    "modulo_zero": "{{ 1 % 0 }}",
    "unknown_filter": "{{ 1 | no_such_filter }}",
    "unknown_test": "{{ 1 is no_such_test }}",
    "unknown_statement": "{% frobnicate %}",
    "list_append": "{% set l = [1] %}{{ l.append(2) }}",
    "dict_update": "{% set d = {} %}{{ d.update({'a': 1}) }}",
    "compare_types": "{{ 'a' < 1 }}",
    "set_on_dict": "{% set d = {} %}{% set d.x = 1 %}",
    "too_many_arguments": "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "bad_unpack": "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "iterate_int": "{% for a in 3 %}{% endfor %}",
    "unclosed_if": "{% if true %}x",
    "unclosed_tag": "{{ 1 ",
    "unclosed_string": "{{ 'abc }}",
    "unclosed_comment": "a {# b",
    "stray_end": "a{% endfor %}",
    "stray_else": "{% else %}",
    "wrong_end": "{% for x in [] %}{% endif %}",
    "bad_expression": "{{ 1 + }}",
    "empty_expression": "{{ }}",
    "bad_character": "{{ a ? b }}",
    "huge_range": "{{ range(100000000) | length }}",
    "tojson_undefined": "{{ missing | tojson }}",
    "brackets": "{{ (1] }}",
}


def case(name, template, messages, add, variables):
    variables = json.loads(json.dumps(variables, sort_keys=True))
    names = {"tools": None, "documents": None, **variables}
    out = {"name": name, "template": template, "messages": messages, "add_generation_prompt": add, "variables": variables}
    try:
        out["text"] = env.from_string(template).render(messages=messages, add_generation_prompt=add, **names)
    except jinja2.exceptions.TemplateError as error:
        out["error"] = str(error)
    except (TypeError, ZeroDivisionError, ValueError, OverflowError) as error:
        out["error"] = str(error)
    return out


cases = []
for name, template in FAMILIES.items():
    for chat_name, chat in {"system": CHAT, "plain": NO_SYSTEM, "first": CHAT[:2], "answered": CHAT[:3]}.items():
        for add in (True, False):
            cases.append(case(f"{name}/{chat_name}/{'prompt' if add else 'end'}", template, chat, add, {**SPECIAL, "date_string": "1 Jan 2025"}))
    cases.append(case(f"{name}/tools", template, CHAT[:2], True, {**SPECIAL, "date_string": "1 Jan 2025", "tools": TOOLS}))
for name, (template, variables) in SNIPPETS.items():
    cases.append(case(name, template, [], False, variables))
    assert "text" in cases[-1], cases[-1]

for name, template in ERRORS.items():
    cases.append(case("error/" + name, template, CHAT[:1], False, {}))
    assert "error" in cases[-1], cases[-1]
path = pathlib.Path(__file__).parent / "goldens.json"
path.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
print(len(cases), "cases,", sum("error" in c for c in cases), "errors,", path.stat().st_size, "bytes")
