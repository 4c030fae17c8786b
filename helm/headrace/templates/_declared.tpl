{{/* Alerts on what the values declare: versions that should be there, and how far things may grow. */}}
{{- define "headrace.rules.declared" -}}
{{- $own := include "headrace.rules.own" . -}}
{{- $names := list -}}
{{- range .Values.models }}{{ $names = append $names .name }}{{ end -}}
- name: declared
  rules:
    # A gateway forgets a version without replicas, and the series with it: a count of zero would be gone in ten minutes.
    {{- range uniq $names }}
    - alert: HeadraceModelWithoutReplica
      expr: |
        absent(headrace_replicas{ {{- $own }}, model={{ quote . }}, state="ready"} > 0)
        and on () count(headrace_control_connected{ {{- $own }}}) > 0
      for: 1m
      labels: {severity: critical, model: {{ quote . }}}
      annotations:
        summary: {{ . }} has no ready replica
        description: >-
          No gateway sees one: requests wait for their deadlines, then fail with UNAVAILABLE; after gateway.retire_after_s with NOT_FOUND,
          which no ratio counts. Look at the RayService's status and at its pods: pending ones want nodes, restarting ones say why in
          their log (digest, golden rows, memory). An upgrade or a change of models just made is best taken back.
    {{- end }}
    {{- range $model := .Values.models }}
    {{- $version := printf "%s, model=%q, version=%q" $own .name (toString .version) }}
    {{- $labels := printf "{severity: warning, model: %q, version: %q}" .name (toString .version) }}
    - alert: HeadraceVersionWithoutReplica
      expr: |
        absent(headrace_replicas{ {{- $version }}, state="ready"} > 0)
        and on () max(headrace_replicas{ {{- $own }}, model={{ quote .name }}, state="ready"}) > 0
      for: 10m
      labels: {{ $labels }}
      annotations:
        summary: {{ .name }} {{ .version }} has no ready replica, another version has
        description: >-
          If it is the primary its requests fail, if it is a canary the primary answers for it, if it is a shadow nothing is compared.
          Look at the application {{ .name }}-{{ .version }} in the RayService's status, and at the log of its replicas.
    {{- with .autoscaling }}
    {{- if gt (int .maxReplicas) (int (default 1 .minReplicas)) }}
    - alert: HeadraceReplicasAtMaximum
      expr: |
        max(headrace_replicas{ {{- $version }}, state="ready"}) >= {{ int .maxReplicas }}
        and on ()
        sum(rate(headrace_replica_stage_duration_seconds_sum{ {{- $version }}, stage!="wait"}[5m]))
          / max(headrace_replicas{ {{- $version }}, state="ready"}) > 0.8
      for: 15m
      labels: {{ $labels }}
      annotations:
        summary: {{ $model.name }} {{ $model.version }} has as many replicas as it may, and they are busy
        description: >-
          All {{ int .maxReplicas }} compute more than four fifths of the time: a further rise in load will be refused. Raise the model's
          autoscaling.maxReplicas and its group's maxReplicas, or find out where the load comes from.
    {{- end }}
    {{- end }}
    {{- end }}
    {{- range $scaler := list .Values.gateway.autoscaling.hpa .Values.gateway.autoscaling.keda }}
    {{- if .enabled }}
    - alert: HeadraceGatewaysAtMaximum
      expr: |
        count(headrace_event_loop_busy_ratio{ {{- $own }}}) >= {{ int .maxReplicas }}
        and on () avg(headrace_event_loop_busy_ratio{ {{- $own }}}) > 0.8
      for: 15m
      labels: {severity: warning}
      annotations:
        summary: there are as many gateways as there may be, and they are busy
        description: >-
          The event loops of all {{ int .maxReplicas }} are busy more than four fifths of the time: a further rise in load will be late, then refused.
          Raise maxReplicas under gateway.autoscaling; if only some are busy, lower gateway.maxConnectionAgeSeconds.
    {{- end }}
    {{- end }}
{{- end }}
