{{/* Cores of a group's pod as Ray counts them: the limit, else the request. Empty: neither is said. */}}
{{- define "headrace.group.cpus" -}}
{{- $said := toString (dig "limits" "cpu" (dig "requests" "cpu" "" (default (dict) .resources)) (default (dict) .resources)) -}}
{{- if hasSuffix "m" $said -}}
{{ divf (trimSuffix "m" $said) 1000 }}
{{- else -}}
{{ $said }}
{{- end -}}
{{- end }}
