{{/*
What Ray Serve runs: services/headrace/serving/serve_config.py says the same of `headrace serve`, and a test holds one to
the other. The only thing that changes when a model version comes or goes.
*/}}

{{- define "headrace.serveConfig" -}}
{{- $tree := fromYaml (include "headrace.settings" .) -}}
{{- $applications := list -}}
{{- range .Values.models -}}
{{- $applications = append $applications (fromYaml (include "headrace.serve.application" (dict "root" $ "model" . "tree" $tree))) -}}
{{- end -}}
{{ toYaml (dict "proxy_location" "Disabled" "applications" $applications) }}
{{- end }}

{{/* One version: (dict "root" $ "model" <of .Values.models> "tree" <headrace.yaml>). */}}
{{- define "headrace.serve.application" -}}
{{- $run := fromYaml (include "headrace.serve.run" .) -}}
{{- /* To Serve arguments are code, and other code is other replicas: only what a replica reads stands here. */ -}}
{{- $settings := deepCopy (pick .tree "replica" "tls" "access") -}}
{{- with pick .tree.telemetry "log_level" }}{{ $_ := set $settings "telemetry" . }}{{ end -}}
{{- $_ := set $settings "models" (dict .model.name (omit $run "replicas" "autoscaling")) -}}
{{- $path := default (printf "%s/%s" .model.name .model.version) .model.path -}}
{{- $arguments := dict
  "directory" (printf "%s/%s" .root.Values.modelStore.mountPath $path)
  "control" (include "headrace.control.address" .root)
  "settings" $settings
-}}
{{- with .root.Values.modelStore.uri -}}
{{- $_ := set $arguments "source" (printf "%s/%s" (trimSuffix "/" .) $path) -}}
{{- end -}}
{{ toYaml (dict
  "name" (printf "%s-%s" .model.name .model.version)
  "route_prefix" nil
  "import_path" "headrace.serving.app:build"
  "args" $arguments
  "deployments" (list (fromYaml (include "headrace.serve.deployment" (dict "run" $run "replica" $settings.replica))))
) }}
{{- end }}

{{/*
How its replicas run: each version says it for itself, except for what gateways and control read of a model, which it
shares with the others. The resource is one that only the pods of its group have.
*/}}
{{- define "headrace.serve.run" -}}
{{- $run := deepCopy (omit (default (dict) .model.settings) "batching" "primary_version" "traffic" "fallback") -}}
{{- $_ := set $run "num_cpus" (default 0 .model.numCpus) -}}
{{- $_ := set $run "num_gpus" (default 0 .model.numGpus) -}}
{{- $_ := set $run "resources" (dict (printf "headrace-%s" .model.group) 0.001) -}}
{{- if .model.autoscaling -}}
{{- $scaling := dict -}}
{{- range $key, $value := .model.autoscaling -}}
{{- $_ := set $scaling (snakecase $key) $value -}}
{{- end -}}
{{- $_ := set $run "autoscaling" $scaling -}}
{{- else -}}
{{- $_ := set $run "replicas" (int64 (default 1 .model.replicas)) -}}
{{- end -}}
{{ toYaml $run }}
{{- end }}

{{/* (dict "run" <headrace.serve.run> "replica" <section>). */}}
{{- define "headrace.serve.deployment" -}}
name: replica
{{- with .run.autoscaling }}
autoscaling_config:
  {{- $scaling := dict "min_replicas" 1 "upscale_delay_s" 0.5 "downscale_delay_s" 300 "look_back_period_s" 2 "metrics_interval_s" 0.5 }}
  {{- range $key, $value := . }}
  {{- $_ := set $scaling $key $value }}
  {{- end }}
  {{- toYaml $scaling | nindent 2 }}
  policy: {policy_function: headrace.serving.scaling:follow_deadlines}
{{- else }}
num_replicas: {{ int64 .run.replicas }}
{{- end }}
ray_actor_options:
  {{- toYaml (pick .run "num_cpus" "num_gpus" "resources") | nindent 2 }}
health_check_period_s: 1
health_check_timeout_s: 3
graceful_shutdown_wait_loop_s: 0.1
graceful_shutdown_timeout_s: {{ int64 .replica.shutdown_s }}
max_surge_percent: {{ int64 .replica.surge_percent }}
logging_config: {enable_access_log: false, log_level: WARNING}
{{- end }}
