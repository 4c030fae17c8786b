{{/* The two objectives, as ratios over seven windows, and alerts on how fast their budgets burn.
     Source: The Site Reliability Workbook, chapter 5, "Multiwindow, multi-burn-rate alerts".

     A request counts against availability when its code is the server's doing, overload and a passed deadline included;
     what callers did wrong (INVALID_ARGUMENT, NOT_FOUND, CANCELLED …) is in neither part of the ratio. A deadline nobody
     could meet counts too: the code does not say so. Calls of those who may not ask are in no ratio at all. */}}
{{- define "headrace.rules.objectives" -}}
{{- $own := include "headrace.rules.own" . -}}
{{- $release := include "headrace.rules.release" . -}}
{{- $faults := "DEADLINE_EXCEEDED|INTERNAL|RESOURCE_EXHAUSTED|UNAVAILABLE" -}}
{{- $requests := "headrace_request_duration_seconds" -}}
{{- $rules := .Values.telemetry.rules -}}
{{- $bound := include "headrace.rules.bound" . -}}
- name: objectives
  rules:
    {{- range $window := list "5m" "30m" "1h" "2h" "6h" "1d" "3d" }}
    # What is refused at the door has no model yet: its share is of all requests.
    - record: model:headrace_failed:ratio_rate{{ $window }}
      expr: |
        sum by (model) (rate({{ $requests }}_count{ {{- $own }}, model!="", code=~"{{ $faults }}"}[{{ $window }}]))
          / sum by (model) (rate({{ $requests }}_count{ {{- $own }}, model!="", code=~"OK|{{ $faults }}"}[{{ $window }}]))
        or
        sum(rate({{ $requests }}_count{ {{- $own }}, model="", code=~"{{ $faults }}"}[{{ $window }}]))
          / sum(rate({{ $requests }}_count{ {{- $own }}, code=~"OK|{{ $faults }}"}[{{ $window }}]))
    - record: model:headrace_slow:ratio_rate{{ $window }}
      expr: |
        1 - sum by (model) (rate({{ $requests }}_bucket{ {{- $own }}, code="OK", le="{{ $bound }}"}[{{ $window }}]))
          / sum by (model) (rate({{ $requests }}_count{ {{- $own }}, code="OK"}[{{ $window }}]))
    {{- end }}
    {{- range $burn := list
          (dict "times" "14.4" "long" "1h" "short" "5m" "severity" "critical" "spent" "two days")
          (dict "times" "6" "long" "6h" "short" "30m" "severity" "critical" "spent" "five days")
          (dict "times" "3" "long" "1d" "short" "2h" "severity" "warning" "spent" "ten days")
          (dict "times" "1" "long" "3d" "short" "6h" "severity" "warning" "spent" "thirty days") }}
    {{- $failed := printf "%s * (1 - %v)" $burn.times $rules.objective }}
    {{- $slow := printf "%s * (1 - %v)" $burn.times $rules.latencyObjective }}
    - alert: HeadraceErrorBudgetBurn
      expr: |
        model:headrace_failed:ratio_rate{{ $burn.long }}{release="{{ $release }}"} > {{ $failed }}
        and
        model:headrace_failed:ratio_rate{{ $burn.short }}{release="{{ $release }}"} > {{ $failed }}
      labels: {severity: {{ $burn.severity }}, window: {{ $burn.long }}}
      annotations:
        summary: {{ `'{{ or $labels.model "the door" }}: failures spend the budget of thirty days in` }} {{ $burn.spent }}'
        description: >-
          {{ `{{ $value | humanizePercentage }}` }} of the requests of the last {{ $burn.long }} failed by our doing; the objective is
          {{ $rules.objective }}. See which other headrace alerts fire, then "Refused and failed per second" on the dashboard:
          RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED and UNAVAILABLE ask for replicas or gateways, INTERNAL for the gateways' log and
          `headrace trace`. A change just made, a promotion too, is best taken back first.
    - alert: HeadraceLatencyBudgetBurn
      expr: |
        model:headrace_slow:ratio_rate{{ $burn.long }}{release="{{ $release }}"} > {{ $slow }}
        and
        model:headrace_slow:ratio_rate{{ $burn.short }}{release="{{ $release }}"} > {{ $slow }}
      labels: {severity: {{ $burn.severity }}, window: {{ $burn.long }}}
      annotations:
        summary: {{ `'{{ $labels.model }}: slow answers spend the budget of thirty days in` }} {{ $burn.spent }}'
        description: >-
          {{ `{{ $value | humanizePercentage }}` }} of the answers of the last {{ $burn.long }} took more than {{ $rules.latencySeconds }} s; the
          objective is {{ $rules.latencyObjective }}. "Waiting for a batch" on the dashboard asks for replicas, "Where a batch spends its time"
          shows a slower model or device, "Event loop lag" asks for gateways. An exemplar of "Request latency" leads to a trace.
    {{- end }}
{{- end }}

{{/* latencySeconds as the histogram's label says it; the schema knows which there are. */}}
{{- define "headrace.rules.bound" -}}
{{- $bound := toString .Values.telemetry.rules.latencySeconds -}}
{{ ternary $bound (print $bound ".0") (contains "." $bound) }}
{{- end }}
