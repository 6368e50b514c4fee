{{/* What all names begin with: the release, and the chart's name unless the release has it. */}}
{{- define "sagabox.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of the objects of one service. Takes a dict of root and name. */}}
{{- define "sagabox.name" -}}
{{- printf "%s-%s" (include "sagabox.fullname" .root) .name -}}
{{- end -}}

{{/* The labels by which the pods of one service are found, or of a component beside the services. */}}
{{- define "sagabox.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "sagabox.labels" -}}
{{ include "sagabox.selector" . }}
app.kubernetes.io/part-of: {{ include "sagabox.fullname" .root }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{/* The image of one service: its own, or that of the orchestrator and the blog. */}}
{{- define "sagabox.image" -}}
{{- $image := .root.Values.image -}}
{{- if .service.image -}}
{{- .service.image -}}
{{- else if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
